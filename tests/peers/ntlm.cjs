// Listens on ADDRESS PORT behind express-ntlm, which binds a login to its connection. Without a
// domain controller it believes whatever name a client gives. It needs no more of express than
// `response.locals`.
const { createServer } = require("node:http");
const ntlm = require("express-ntlm");

const [address, port] = process.argv.slice(2);
const authenticate = ntlm();
createServer((request, response) => {
  response.locals = {};
  authenticate(request, response, () => {
    const { DomainName, UserName } = request.ntlm;
    response.setHeader("X-User", `${DomainName}\\${UserName}`);
    response.end("for users");
  });
}).listen(Number(port), address);

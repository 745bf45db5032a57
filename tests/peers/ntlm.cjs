// Arguments: ADDRESS PORT. A server with express-ntlm, which ties a login to its connection.
// Without a domain controller it accepts any name that a client gives. Of express it needs only
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

// Says MESSAGE to the WebSocket at URL from a page of headless Chromium, driven over its
// DevTools pipe, and prints the events that the page saw. PROFILE is a folder of its own.
import { spawn } from 'node:child_process';

const [url, message, profile] = process.argv.slice(2);
const chrome = spawn('chromium', [
  '--headless=new', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--no-first-run',
  '--disable-background-networking', '--disable-component-update', '--disable-sync',
  '--disable-quic', '--disable-breakpad', '--no-proxy-server', `--user-data-dir=${profile}`,
  '--remote-debugging-pipe', 'about:blank',
], { stdio: ['ignore', 'ignore', 'inherit', 'pipe', 'pipe'] });
let finished = false;
chrome.on('error', error => { console.error(error.message); process.exit(1); });
chrome.on('exit', code => {
  if (!finished) console.error(`chromium left early with exit ${code}`);
  process.exit(finished ? 0 : 1);
});

let pending = '', id = 0;
const waiting = new Map();
chrome.stdio[3].on('error', () => {});
chrome.stdio[4].setEncoding('utf8');
chrome.stdio[4].on('data', chunk => {
  const parts = (pending + chunk).split('\0');
  pending = parts.pop();
  for (const part of parts) {
    const answer = JSON.parse(part);
    if (answer.error) console.error(JSON.stringify(answer.error));
    waiting.get(answer.id)?.(answer.result);
  }
});
const call = (method, params = {}, sessionId) => new Promise(done => {
  waiting.set(++id, done);
  chrome.stdio[3].write(JSON.stringify({ id, method, params, sessionId }) + '\0');
});

const { targetId } = await call('Target.createTarget', { url: 'about:blank' });
const { sessionId } = await call('Target.attachToTarget', { targetId, flatten: true });
const expression = `new Promise(done => {
  const log = [], ws = new WebSocket(${JSON.stringify(url)});
  ws.onopen = () => { log.push('open'); ws.send(${JSON.stringify(message)}); };
  ws.onmessage = e => { log.push('message ' + e.data); ws.close(1000, 'done'); };
  ws.onerror = () => log.push('error');
  ws.onclose = e => { log.push('close ' + e.code + ' ' + e.wasClean); done(log.join('; ')); };
})`;
const evaluated = await call('Runtime.evaluate',
  { expression, awaitPromise: true, returnByValue: true }, sessionId);
console.log(evaluated.result.value);
finished = true;
call('Browser.close');

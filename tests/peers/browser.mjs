// Headless Chromium, driven over its DevTools pipe. `open` starts one with a profile folder and
// returns a page: `call` sends it a command, `evaluate` runs an expression and awaits its
// promise, `leave` closes the page's tab, `close` ends the browser. Needs only node's built-in
// modules.
import { spawn } from 'node:child_process';

export async function open(profile, more = []) {
  const chrome = spawn('chromium', [
    '--headless=new', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--no-first-run',
    '--disable-background-networking', '--disable-component-update', '--disable-sync',
    '--disable-quic', '--disable-breakpad', '--no-proxy-server', '--hide-scrollbars', ...more,
    `--user-data-dir=${profile}`, '--remote-debugging-pipe', 'about:blank',
  ], { stdio: ['ignore', 'ignore', 'inherit', 'pipe', 'pipe'] });
  let finished = false;
  chrome.on('error', error => { console.error(error.message); process.exit(1); });
  chrome.on('exit', code => {
    if (!finished) console.error(`chromium exited early with ${code}`);
    process.exit(finished ? process.exitCode : 1);
  });

  let pending = '', id = 0;
  const waiting = new Map(), listeners = [];
  chrome.stdio[3].on('error', () => {});
  chrome.stdio[4].setEncoding('utf8');
  chrome.stdio[4].on('data', chunk => {
    const parts = (pending + chunk).split('\0');
    pending = parts.pop();
    for (const part of parts) {
      const answer = JSON.parse(part);
      if (answer.error) console.error(JSON.stringify(answer.error));
      waiting.get(answer.id)?.(answer.result);
      if (answer.method) listeners.forEach(listener => listener(answer));
    }
  });
  const say = (method, params = {}, sessionId) => new Promise(done => {
    waiting.set(++id, done);
    chrome.stdio[3].write(JSON.stringify({ id, method, params, sessionId }) + '\0');
  });

  const { targetId } = await say('Target.createTarget', { url: 'about:blank' });
  const { sessionId } = await say('Target.attachToTarget', { targetId, flatten: true });
  const call = (method, params) => say(method, params, sessionId);
  return {
    call,
    listen: listener => listeners.push(listener),
    async evaluate(expression) {
      const { result, exceptionDetails } = await call('Runtime.evaluate',
        { expression, awaitPromise: true, returnByValue: true });
      if (exceptionDetails) throw new Error(JSON.stringify(exceptionDetails));
      return result.value;
    },
    leave: () => say('Target.closeTarget', { targetId }),
    close() { finished = true; say('Browser.close'); },
  };
}

// Says MESSAGE to the WebSocket at URL from a page of headless Chromium, and prints the
// events that the page saw. PROFILE is a folder of its own.
import { open } from './browser.mjs';

const [url, message, profile] = process.argv.slice(2);
const page = await open(profile);
console.log(await page.evaluate(`new Promise(done => {
  const log = [], ws = new WebSocket(${JSON.stringify(url)});
  ws.onopen = () => { log.push('open'); ws.send(${JSON.stringify(message)}); };
  ws.onmessage = e => { log.push('message ' + e.data); ws.close(1000, 'done'); };
  ws.onerror = () => log.push('error');
  ws.onclose = e => { log.push('close ' + e.code + ' ' + e.wasClean); done(log.join('; ')); };
})`));
page.close();

// Arguments: URL MESSAGE PROFILE [PAGE [RULES]]. Sends MESSAGE to the WebSocket at URL from a
// page in headless Chromium, and prints the events on the page. PROFILE is an empty folder. The
// page is loaded from PAGE if given, and RULES resolve names; if URL is -, the page's text is
// printed instead.
import { open } from './browser.mjs';

const [url, message, profile, address, rules] = process.argv.slice(2);
const page = await open(profile, rules ? [`--host-resolver-rules=${rules}`] : []);
if (address) {
  // Returns once the browser has committed the last page of a chain of redirects.
  await page.call('Page.navigate', { url: address });
  await page.evaluate(`new Promise(done => document.readyState === 'complete' ? done()
    : addEventListener('load', () => done()))`);
}
console.log(await page.evaluate(url === '-' ? 'document.body.innerText' : `new Promise(done => {
  const log = [], ws = new WebSocket(${JSON.stringify(url)});
  ws.onopen = () => { log.push('open'); ws.send(${JSON.stringify(message)}); };
  ws.onmessage = e => { log.push('message ' + e.data); ws.close(1000, 'done'); };
  ws.onerror = () => log.push('error');
  ws.onclose = e => { log.push('close ' + e.code + ' ' + e.wasClean); done(log.join('; ')); };
})`));
page.close();

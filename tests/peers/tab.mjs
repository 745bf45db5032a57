// Arguments: URL EXPRESSION PROFILE. Opens URL in a tab of headless Chromium and prints the value
// of EXPRESSION there, or of its promise, or that it took too long. Then closes the tab; the
// browser runs until the end of standard input. PROFILE is an empty folder. A new tab already
// shows about:blank; after a navigation to it, it could not open WebSockets to this machine.
import { open } from './browser.mjs';

const [url, expression, profile] = process.argv.slice(2);
const page = await open(profile);
if (url !== 'about:blank') {
  const loaded = new Promise(done => page.listen(({ method }) => {
    if (method === 'Page.loadEventFired') done();
  }));
  await page.call('Page.enable');
  await page.call('Page.navigate', { url });
  await loaded;
}
const late = new Promise(done => setTimeout(() => done('nothing within a minute'), 60_000).unref());
console.log(await Promise.race([page.evaluate(expression), late]));
await page.leave();
process.stdin.on('end', () => page.close()).resume();

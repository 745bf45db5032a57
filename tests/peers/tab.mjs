// Opens URL in a tab of headless Chromium and prints what EXPRESSION, or its promise, becomes
// there. Then closes the tab; the browser stays until standard input ends. PROFILE is a
// folder of its own.
import { open } from './browser.mjs';

const [url, expression, profile] = process.argv.slice(2);
const page = await open(profile);
const loaded = new Promise(done => page.listen(({ method }) => {
  if (method === 'Page.loadEventFired') done();
}));
await page.call('Page.enable');
await page.call('Page.navigate', { url });
await loaded;
console.log(await page.evaluate(expression));
await page.leave();
process.stdin.on('end', () => page.close()).resume();

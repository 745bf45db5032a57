// Arguments: URL PROFILE. Opens the status page at URL in headless Chromium and evaluates
// expressions there. PROFILE is an empty folder. Each line of standard input is a JSON array: an
// expression, and how many milliseconds it may take to become true. For each, prints "yes" or
// the text of the page. Errors on the page's console, and requests to other sites, are printed
// as they occur.
import { createInterface } from 'node:readline';
import { open } from './browser.mjs';

const [url, profile] = process.argv.slice(2);
const page = await open(profile);
page.listen(({ method, params }) => {
  if (method === 'Runtime.exceptionThrown') console.log('error', params.exceptionDetails.text);
  if (method === 'Log.entryAdded' && params.entry.level === 'error') console.log('error', params.entry.text);
  if (method === 'Page.javascriptDialogOpening') console.log('error a dialog');
  if (method === 'Network.requestWillBeSent') {
    const { url: asked } = params.request;
    if (!asked.startsWith(url) && !asked.startsWith('data:')) console.log('error asks', asked);
  }
});
for (const domain of ['Runtime', 'Log', 'Page', 'Network']) await page.call(`${domain}.enable`);
const loaded = new Promise(done => page.listen(({ method }) => {
  if (method === 'Page.loadEventFired') done();
}));
await page.call('Page.navigate', { url });
await loaded;
console.log('loaded');
for await (const line of createInterface({ input: process.stdin })) {
  const [expression, patience] = JSON.parse(line);
  const shown = await page.evaluate(`new Promise(done => {
    const end = Date.now() + ${patience};
    const look = () => {
      if (${expression}) done('yes');
      else if (Date.now() > end) done('no: ' + document.body.innerText);
      else setTimeout(look, 50);
    };
    look();
  })`);
  console.log(JSON.stringify(shown));
}
page.close();

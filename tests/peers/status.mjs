// Arguments: URL PROFILE. Opens the status page at URL in headless Chromium and does there what
// standard input asks for. PROFILE is an empty folder. A line is a JSON array: an expression, and
// how many milliseconds it may take to become true. For each, prints "yes" or the text of the
// page. Or it is an object: {"width", "scheme"} shows the page in a window of this width, light
// or dark; {"key", "text"} presses a key; {"url"} opens another status page. Errors on the page's
// console, and requests to other sites, are printed as they occur.
import { createInterface } from 'node:readline';
import { open } from './browser.mjs';

let [url, profile] = process.argv.slice(2);
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
let told = () => {};
page.listen(({ method }) => { if (method === 'Page.loadEventFired') told(); });
const visit = async () => {
  const loaded = new Promise(done => { told = done; });
  await page.call('Page.navigate', { url });
  await loaded;
};
const does = {
  async width({ width, scheme }) {
    await page.call('Emulation.setDeviceMetricsOverride',
      { width, height: 800, deviceScaleFactor: 1, mobile: false });
    await page.call('Emulation.setEmulatedMedia',
      { features: [{ name: 'prefers-color-scheme', value: scheme }] });
  },
  async key({ key, text }) {
    for (const type of ['keyDown', 'keyUp']) {
      await page.call('Input.dispatchKeyEvent',
        { type, key, code: key, text: type === 'keyDown' ? text : undefined,
          windowsVirtualKeyCode: { Tab: 9, ' ': 32 }[key] });
    }
  },
  async url(asked) {
    url = asked.url;
    await visit();
  },
};
await visit();
console.log('loaded');
for await (const line of createInterface({ input: process.stdin })) {
  const asked = JSON.parse(line);
  if (!Array.isArray(asked)) {
    await does[Object.keys(does).find(name => name in asked)](asked);
    console.log('"yes"');
    continue;
  }
  const [expression, patience] = asked;
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

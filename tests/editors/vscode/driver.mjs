// Drives a page of a headless Chromium as a person would: one JSON request a line on standard
// input, one answer a line on standard output. Started by tests/editors/code_server.py with
// the folder that holds playwright-core. The page reaches nothing but this machine.
import { createRequire } from 'node:module';
import { createInterface } from 'node:readline';

const [, , packages, home] = process.argv;
const { chromium } = createRequire(`${packages}/package.json`)('playwright-core');
const browser = await chromium.launch({
  executablePath: '/usr/bin/chromium',
  env: { PATH: process.env.PATH, HOME: home },
  args: ['--no-sandbox', '--disable-gpu', '--disable-background-networking'],
});
const context = await browser.newContext({ viewport: { width: 1000, height: 620 } });
await context.addInitScript({ path: new URL('page.js', import.meta.url).pathname });
const outside = new Set();
await context.route('**/*', (route) => {
  const { hostname, protocol, origin } = new URL(route.request().url());
  if (hostname === '127.0.0.1' || protocol === 'data:' || protocol === 'blob:') {
    return route.continue();
  }
  outside.add(origin);
  return route.abort();
});
let page;

const methods = {
  open: async (url) => {
    await page?.close();
    page = await context.newPage();
    page.setDefaultTimeout(60_000);
    await page.goto(url);
  },
  press: (key) => page.keyboard.press(key),
  type: (text) => page.keyboard.type(text),
  insert: (text) => page.keyboard.insertText(text),
  click: (selector, text, button) =>
    page.locator(selector, text ? { hasText: text } : {}).first().click({ button }),
  evaluate: (script) => page.evaluate(script),
  // The value of an expression as soon as it is neither false, empty nor null.
  wait: async (expression, timeout) =>
    (await page.waitForFunction(expression, null, { timeout, polling: 20 })).jsonValue(),
  screenshot: (path) => page.screenshot({ path }).then(() => null),
  outside: () => [...outside],
};

for await (const line of createInterface({ input: process.stdin })) {
  const { method, args } = JSON.parse(line);
  let answer;
  try {
    answer = { result: (await methods[method](...args)) ?? null };
  } catch (error) {
    answer = { error: String(error).split('\n')[0] };
  }
  process.stdout.write(JSON.stringify(answer) + '\n');
}
await browser.close();

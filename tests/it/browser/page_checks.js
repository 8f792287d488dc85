// Looks at pgvane's pages with Chromium, as an operator does, and reports in the Test Anything Protocol.
//
// Arguments: the admin address, the directory for screenshots, and the name of the scenario that pgvane is in.
"use strict";

const { chromium } = require("playwright-core");
const assert = require("node:assert/strict");
const http = require("node:http");
const path = require("node:path");

const [admin, screenshots, scenario] = process.argv.slice(2);
const stats = `http://${admin}/stats`;
const DEADLINE_MS = 30_000;
// a name that is not this machine's: Chromium treats loopback addresses as secure, and others not
const foreignName = `http://pgvane.test:${admin.split(":")[1]}`;
const credentials = { username: "ops", password: "a password of twenty letters" };

const checks = [];
const check = (name, run) => checks.push({ name, run });

/** Waits until `look` does not throw. */
async function eventually(look) {
  const deadline = Date.now() + DEADLINE_MS;
  for (;;) {
    try {
      return await look();
    } catch (error) {
      if (Date.now() > deadline) throw error;
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }
}

/** A page in a browser of this width, colour scheme and so on. Errors of its script fail the check. */
async function visit(browser, options, look) {
  const context = await browser.newContext({ viewport: { width: 1600, height: 1000 }, ...options });
  try {
    const page = await context.newPage();
    const errors = [];
    page.on("pageerror", (error) => errors.push(`${error}`));
    // the browser reports the answer 401, which asks for the password, as an error too
    page.on("console", (line) => line.type() === "error" && !line.text().includes("401") && errors.push(line.text()));
    await page.goto(stats);
    await look(page);
    assert.deepEqual(errors, []);
  } finally {
    await context.close();
  }
}

/** Every series of /metrics, by its name with sorted labels. */
async function metrics() {
  const text = await (await fetch(`http://${admin}/metrics`)).text();
  const series = new Map();
  for (const line of text.split("\n").filter((line) => line && !line.startsWith("#"))) {
    const [, name, labels, value] = line.match(/^(\w+)(?:\{(.*)\})? (\S+)$/);
    series.set(key(name, Object.fromEntries([...(labels ?? "").matchAll(/(\w+)="([^"]*)"/g)].map((m) => [m[1], m[2]]))),
      Number(value));
  }
  return series;
}

const key = (name, labels) => `${name}{${Object.entries(labels).map(([k, v]) => `${k}=${v}`).sort().join(",")}}`;

/** The figures on the page that have a metric. */
async function figures(page) {
  const found = await page.$$eval("data[data-metric]", (cells) => cells.map((cell) => {
    const row = cell.closest("tr").dataset;
    const labels = {};
    for (const name of ["cluster", "node", "listener"]) if (row[name]) labels[name] = row[name];
    if (cell.dataset.direction) labels.direction = cell.dataset.direction;
    return { metric: cell.dataset.metric, labels, value: Number(cell.value), text: cell.textContent };
  }));
  return found.filter((figure) => figure.metric);
}

async function figuresAreThoseOfTheMetrics(page) {
  await eventually(async () => {
    await page.reload();
    const [shown, series] = [await figures(page), await metrics()];
    assert.ok(shown.length > 20, `${shown.length} figures`);
    for (const figure of shown) {
      const name = key(figure.metric, figure.labels);
      // time goes on between the two requests
      const tolerance = figure.metric === "pgvane_node_downtime_seconds_total" ? 2 : 0;
      assert.ok(series.has(name), `${name} is not among the metrics`);
      assert.ok(Math.abs(series.get(name) - figure.value) <= tolerance, `${name}: ${series.get(name)}, ${figure.value}`);
    }
  });
}

/** Whether every text has enough contrast to its background (WCAG 2, level AA). */
async function contrastIsEnough(page) {
  const faint = await page.evaluate(() => {
    const parse = (text) => {
      const numbers = text.match(/-?[\d.]+(e-?\d+)?/g).map(Number);
      const rgb = text.startsWith("color(srgb") ? numbers.slice(0, 3) : numbers.slice(0, 3).map((part) => part / 255);
      return { rgb, alpha: numbers[3] ?? 1 };
    };
    const luminance = (rgb) => {
      const [r, g, b] = rgb.map((part) => (part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
      return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const background = (element) => {
      for (let at = element; at; at = at.parentElement) {
        const { rgb, alpha } = parse(getComputedStyle(at).backgroundColor);
        if (alpha === 1) return rgb;
      }
      return [1, 1, 1];
    };
    const faint = [];
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
      const element = texts.currentNode.parentElement;
      const text = texts.currentNode.data.trim();
      if (!text || ["SCRIPT", "STYLE", "NOSCRIPT"].includes(element.tagName) || !element.checkVisibility()) continue;
      const pair = [luminance(parse(getComputedStyle(element).color).rgb), luminance(background(element))].sort();
      const ratio = (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
      if (ratio < 4.5) faint.push(`${text}: ${ratio.toFixed(2)}`);
    }
    return faint;
  });
  assert.deepEqual(faint, []);
}

async function screenReadersFindTheirWay(page) {
  const missing = await page.evaluate(() => {
    const wrong = [];
    for (const name of ["header", "nav", "main"]) {
      if (document.querySelectorAll(name).length !== 1) wrong.push(`not one <${name}>`);
    }
    if (!document.documentElement.lang || !document.title) wrong.push("no language or title");
    for (const table of document.querySelectorAll("table")) {
      if (!table.caption?.textContent.trim()) wrong.push("a table without caption");
      const headings = [...table.querySelectorAll("thead th")];
      if (headings.some((heading) => !heading.scope)) wrong.push("a heading without scope");
      const columns = table.querySelectorAll("thead tr:first-child th");
      const width = [...columns].reduce((sum, heading) => sum + heading.colSpan, 0);
      for (const row of table.querySelectorAll("tbody tr")) {
        const cells = [...row.cells].reduce((sum, cell) => sum + cell.colSpan, 0);
        if (cells !== width) wrong.push(`${cells} cells below ${width} headings: ${row.textContent.trim().slice(0, 80)}`);
      }
    }
    for (const part of document.querySelectorAll("section, [role=region], svg[role=img]")) {
      const label = part.getAttribute("aria-label") ?? document.getElementById(part.getAttribute("aria-labelledby"))?.textContent;
      if (!label?.trim()) wrong.push(`no label: ${part.outerHTML.slice(0, 80)}`);
    }
    for (const control of document.querySelectorAll("a, button")) if (!control.textContent.trim()) wrong.push("a control without name");
    for (const input of document.querySelectorAll("input:not([type=hidden])")) if (!input.labels.length) wrong.push("an input without label");
    const ids = [...document.querySelectorAll("[id]")].map((element) => element.id);
    for (const id of ids) if (ids.indexOf(id) !== ids.lastIndexOf(id)) wrong.push(`the id ${id} twice`);
    return wrong;
  });
  assert.deepEqual(missing, []);
  assert.equal(await page.locator("[aria-live]").count(), 1, "only the summary of the alarms is read out");
}

/** Everything that Tab reaches, from the top: each is marked when it has the focus. */
async function theKeyboardReachesEverything(page) {
  const wanted = await page.$$eval("a, button, [tabindex='0'], input:not([type=hidden])", (all) =>
    all.filter((one) => one.checkVisibility()).length);
  await page.evaluate(() => document.activeElement.blur());
  const reached = new Set();
  for (let step = 0; step < wanted + 2; step++) {
    await page.keyboard.press("Tab");
    const at = await page.evaluate(() => {
      const focused = document.activeElement;
      if (focused === document.body) return null;
      focused.dataset.reached = "";
      return { name: focused.textContent.trim().slice(0, 40), outline: getComputedStyle(focused).outlineStyle };
    });
    if (!at) break;
    assert.notEqual(at.outline, "none", `no mark at ${at.name}`);
    reached.add(at.name);
  }
  assert.ok(reached.size >= 3 && reached.has("skip to the content"), [...reached].join(", "));
}

async function fitsAPhone(page, important) {
  assert.ok(await page.evaluate(() => document.scrollingElement.scrollWidth) <= 390, "the page scrolls sideways");
  const outside = await page.$$eval("tbody tr[data-node], tbody tr[data-listener]", (rows, important) => rows.flatMap((row) =>
    [...row.cells].slice(0, row.dataset.node ? important.node : important.listener)
      .filter((cell) => cell.getBoundingClientRect().right > 390).map((cell) => `${row.id}: ${cell.textContent.trim()}`)), important);
  assert.deepEqual(outside, [], "role, sessions and lag are to be seen without scrolling");
}

const VIEWS = [
  ["light", { colorScheme: "light" }],
  ["dark", { colorScheme: "dark" }],
  ["phone-light", { colorScheme: "light", viewport: { width: 390, height: 844 } }],
  ["phone-dark", { colorScheme: "dark", viewport: { width: 390, height: 844 } }],
];

for (const [name, options] of VIEWS) {
  check(`the page is readable: ${name}`, async (browser) => visit(browser, options, async (page) => {
    await page.screenshot({ path: path.join(screenshots, `${scenario}-${name}.png`), fullPage: true });
    await contrastIsEnough(page);
    await screenReadersFindTheirWay(page);
    if (name.startsWith("phone")) await fitsAPhone(page, { node: 4, listener: 3 });
  }));
}

check("the figures are those of the metrics, with and without JavaScript", async (browser) => {
  for (const javaScriptEnabled of [true, false]) await visit(browser, { javaScriptEnabled }, figuresAreThoseOfTheMetrics);
});

check("nothing is loaded from elsewhere", async (browser) => visit(browser, {}, async (page) => {
  const loaded = [];
  page.on("request", (request) => loaded.push(request.url()));
  await page.reload();
  await page.waitForRequest((request) => request.resourceType() === "fetch");
  assert.deepEqual([...new Set(loaded)], [stats]);
}));

const SCENARIOS = {
  calm() {
    check("a calm cluster has no alarm, one green leader and plots with text", async (browser) => visit(browser, {}, async (page) => {
      assert.equal(await page.locator("[aria-live]").textContent(), "none");
      assert.equal(await page.locator(".badge.serves").count(), 1);
      assert.equal(await page.locator("#alarms li").count(), 0);
      const labels = await page.$$eval("svg[role=img]", (all) => all.map((one) => one.getAttribute("aria-label")));
      assert.equal(labels.length, 5);
      for (const label of labels) assert.match(label, /in the last hour|no values yet/);
    }));
    check("everything is reached with the keyboard", async (browser) => visit(browser, {}, theKeyboardReachesEverything));
    check("an update keeps the focus, the place and what is selected, and a pause stops it", async (browser) => visit(browser, {
      viewport: { width: 700, height: 500 },
    }, async (page) => {
      const region = page.locator(".scroll").first();
      await page.locator("tr[data-node] th a").last().focus();
      await region.evaluate((element) => { element.scrollLeft = 240; });
      await page.evaluate(() => scrollTo(0, 200));
      const place = () => page.evaluate(() => [document.activeElement.textContent, scrollY, document.querySelector(".scroll").scrollLeft]);
      const before = await place();
      assert.equal(before[2], 240);
      const uptime = () => page.locator("#parts > p").textContent();
      const seen = await uptime();
      await eventually(async () => assert.notEqual(await uptime(), seen, "no update"));
      assert.deepEqual(await place(), before);
      await page.getByRole("button", { name: "pause updates" }).click();
      const paused = await uptime();
      let requests = 0;
      page.on("request", () => requests++);
      await page.waitForTimeout(2500);
      assert.deepEqual([await uptime(), requests], [paused, 0]);
    }));
    check("a page that gets no answer says so", async (browser) => {
      const context = await browser.newContext();
      const page = await context.newPage();
      await page.goto(stats);
      await context.setOffline(true);
      await page.getByRole("alert").filter({ hasText: "out of date" }).waitFor({ timeout: DEADLINE_MS });
      await context.setOffline(false);
      await eventually(async () => assert.equal(await page.locator("body.stale").count(), 0));
      await context.close();
    });
  },
  "two-leaders"() {
    check("two leaders are a critical alarm with what to do, and no node is green", async (browser) => visit(browser, {}, async (page) => {
      assert.equal(await page.locator(".badge.serves, .badge.good").filter({ hasText: "lead" }).count(), 0);
      assert.equal(await page.locator(".badge.bad").filter({ hasText: "claims to lead" }).count(), 2);
      assert.match(await page.locator("[aria-live]").textContent(), /1 critical/);
      const alarm = page.locator("#alarms li.critical");
      assert.match(await alarm.textContent(), /split brain: .*node1.*node2/s);
      assert.match(await alarm.locator("p").textContent(), /patronictl list/);
    }));
  },
  silent() {
    check("silent nodes are not green, whoever led", async (browser) => visit(browser, {}, async (page) => {
      assert.equal(await page.locator(".badge.serves, .badge.good").count(), 0);
      assert.match(await page.locator("#alarms li.critical").textContent(), /no leader/);
      const badges = await page.locator("tr[data-node] .badge").allTextContents();
      assert.deepEqual(badges, ["was leader", "was replica", "was replica"]);
    }));
    check("the alarms are read out once, although times run", async (browser) => visit(browser, {}, async (page) => {
      await page.evaluate(() => {
        window.changes = 0;
        const live = document.querySelector("[aria-live]");
        new MutationObserver(() => window.changes++).observe(live, { childList: true, characterData: true, subtree: true });
      });
      const headline = () => page.locator("section .title.vacant span").nth(0).textContent();
      const uptime = () => page.locator("#parts > p").textContent();
      for (let update = 0; update < 2; update++) {
        const seen = await uptime();
        await eventually(async () => assert.notEqual(await uptime(), seen));
      }
      assert.ok(await headline());
      assert.equal(await page.evaluate(() => window.changes), 0);
    }));
  },
  twenty() {
    check("twenty nodes are twenty rows, with the highest lags in the plot", async (browser) => visit(browser, {}, async (page) => {
      assert.equal(await page.locator("tr[data-node]").count(), 20);
      const plot = page.locator("[id='plot/lag of the replicas'] svg");
      await eventually(async () => assert.match(await plot.getAttribute("aria-label"), /; 1[23] more with a lower one$/));
    }));
  },
  crowd() {
    const total = 2000;
    check("two thousand sessions are counted, and the list is bounded", async (browser) => visit(browser, {}, async (page) => {
      await eventually(async () => {
        await page.reload();
        const held = await page.$$eval("tr[data-listener] data[data-metric=pgvane_sessions]", (all) => all.map((one) => Number(one.value)));
        assert.equal(held.reduce((sum, one) => sum + one, 0), total);
      });
      await page.goto(`http://${admin}/stats/sessions`);
      await page.screenshot({ path: path.join(screenshots, "crowd-sessions.png") });
      assert.equal(await page.locator("#sessions tbody tr").count(), 100);
      assert.match(await page.locator("#sessions .title").textContent(), /2000 sessions.*1900 more are not/s);
      await page.goto(`http://${admin}/stats/sessions?max=2000`);
      assert.equal(await page.locator("#sessions tbody tr").count(), total);
    }));
    check("sessions are found by their fields, also on a phone", async (browser) => visit(browser, { viewport: { width: 390, height: 844 } }, async (page) => {
      await page.goto(`http://${admin}/stats/sessions`);
      const client = (await page.locator("#sessions tbody th").first().textContent()).trim();
      await page.getByLabel("client (address or network)").fill(client);
      await page.getByRole("button", { name: "show" }).click();
      await page.waitForURL(/client=/);
      assert.equal(await page.locator("#sessions tbody tr").count(), 1);
      await page.goto(`http://${admin}/stats/sessions?listener=read&node=nobody`);
      assert.match(await page.locator("#sessions tbody").textContent(), /no session matches/);
      await page.goto(`http://${admin}/stats/sessions?listener=read&max=20`);
      await page.screenshot({ path: path.join(screenshots, "crowd-sessions-phone.png"), fullPage: true });
      assert.ok(await page.evaluate(() => document.scrollingElement.scrollWidth) <= 390, "it scrolls sideways");
      await contrastIsEnough(page);
      await screenReadersOfOtherPages(page);
    }));
  },
  actions() {
    for (const javaScriptEnabled of [true, false]) {
      const name = javaScriptEnabled ? "with" : "without";
      check(`an operator drains, weighs and closes ${name} JavaScript, and the page says who did`, async (browser) => visit(browser, {
        javaScriptEnabled, httpCredentials: credentials,
      }, async (page) => {
        await page.getByRole("link", { name: "node2", exact: true }).click();
        await screenReadersOfOtherPages(page);
        await contrastIsEnough(page);
        await page.screenshot({ path: path.join(screenshots, `actions-node-${name}-js.png`), fullPage: true });
        assert.equal(await page.getByRole("button", { name: "pause updates" }).count(), 0, "this page has no updates");
        const count = await eventually(async () => {
          await page.goto(`http://${admin}/stats/close?node=node2`);
          const title = await page.locator("h2").textContent();
          const [, count] = title.match(/^Close (\d+) sessions?\?$/);
          assert.ok(Number(count) > 0, title);
          return count;
        });
        await page.screenshot({ path: path.join(screenshots, `actions-close-${name}-js.png`), fullPage: true });
        await page.getByRole("button", { name: /^close \d+ session/ }).click();
        await page.waitForURL(/stats#operators/);
        assert.match(await page.locator("#operators tbody tr").first().textContent(), /ops.*closed [1-9]\d* sessions?: node "node2"/s);
        await page.goto(`http://${admin}/stats/node?cluster=main&node=node2`);
        await page.getByLabel("weight").fill("25");
        await page.getByRole("button", { name: "set the weight" }).click();
        await page.waitForURL(/stats#operators/);
        const row = page.locator("tr[data-node=node2]");
        assert.match(await row.textContent(), /25.*\(100 configured\).*weight 25 by ops at /s);
        await page.goto(`http://${admin}/stats/node?cluster=main&node=node2`);
        await page.getByRole("button", { name: "drain node2" }).click();
        await page.waitForURL(/stats#operators/);
        assert.match(await row.textContent(), /drain by ops at /);
        await page.screenshot({ path: path.join(screenshots, `actions-after-${name}-js.png`), fullPage: true });
        for (const button of ["set node2 to ready", "use the configured weight (100)"]) {
          await page.goto(`http://${admin}/stats/node?cluster=main&node=node2`);
          await page.getByRole("button", { name: button }).click();
          await page.waitForURL(/stats#operators/);
        }
        assert.doesNotMatch(await row.textContent(), /by ops/);
      }));
    }
    check("the leader is drained only after its box is ticked", async (browser) => visit(browser, { httpCredentials: credentials }, async (page) => {
      await page.goto(`http://${admin}/stats/node?cluster=main&node=node1`);
      await page.getByRole("button", { name: "drain node1" }).click();
      assert.match(page.url(), /stats\/node/, "the browser asks for the box");
      assert.equal(await page.locator("input[name=leader]:invalid").count(), 2);
    }));
    check("a form works over plain HTTP under a name of the network", async (browser) => visit(browser, { httpCredentials: credentials }, async (page) => {
      await page.goto(`${foreignName}/stats/node?cluster=main&node=node2`);
      await page.getByLabel("weight").fill("30");
      await page.getByRole("button", { name: "set the weight" }).click();
      await page.waitForURL(/stats#operators/);
      assert.match(await page.locator("#operators tbody tr").first().textContent(), /weight 30/);
    }));
    check("a form of another site changes nothing", async (browser) => {
      for (const target of [`http://${admin}`, foreignName]) {
        const evil = http.createServer((_, answer) => answer.setHeader("content-type", "text/html").end(
          `<form method="post" action="${target}/stats/node"><input name="cluster" value="main"><input name="node" value="node2">` +
          `<input name="state" value="maint"><button>win</button></form>`));
        await new Promise((resolve) => evil.listen(0, "127.0.0.1", resolve));
        const context = await browser.newContext({ httpCredentials: { ...credentials, send: "always" } });
        try {
          const page = await context.newPage();
          await page.goto(`${target}/stats`);
          await page.goto(`http://evil.test:${evil.address().port}/`);
          await page.getByRole("button", { name: "win" }).click();
          await page.waitForURL(/stats\/node/);
          assert.match(await page.locator("body").textContent(), /sent by a web page of another site/);
        } finally {
          await context.close();
          evil.closeAllConnections();
          evil.close();
        }
      }
      const status = await (await fetch(`http://${admin}/api/status`)).json();
      assert.equal(status.clusters[0].nodes[1].state, "ready");
    });
  },
};

/** As on the stats page, for pages without alarms. */
async function screenReadersOfOtherPages(page) {
  const wrong = await page.evaluate(() => {
    const wrong = [];
    for (const input of document.querySelectorAll("input:not([type=hidden])")) if (!input.labels.length) wrong.push(`no label: ${input.name}`);
    for (const table of document.querySelectorAll("table")) if (!table.caption) wrong.push("a table without caption");
    if (document.querySelectorAll("main").length !== 1) wrong.push("not one <main>");
    return wrong;
  });
  assert.deepEqual(wrong, []);
}

async function main() {
  SCENARIOS[scenario]();
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM,
    args: ["--no-sandbox", "--disable-dev-shm-usage", "--host-resolver-rules=MAP *.test 127.0.0.1"],
  });
  console.log(`1..${checks.length}`);
  let failed = 0;
  for (const [index, { name, run }] of checks.entries()) {
    try {
      await run(browser);
      console.log(`ok ${index + 1} - ${name}`);
    } catch (error) {
      failed++;
      console.log(`not ok ${index + 1} - ${name}\n# ${`${error.stack}`.replaceAll("\n", "\n# ")}`);
    }
  }
  await browser.close();
  process.exitCode = failed > 0 ? 1 : 0;
}

main();

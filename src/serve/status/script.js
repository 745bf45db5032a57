'use strict';
// Loads /status.json once a second while the page is visible, and draws what it says. Everything
// that a client or an upstream chose is set as text, never as markup.

const WORDS = {
  en: {
    route: 'Route', now: 'Now', failures: 'Recent failures', settings: 'Settings',
    setting: 'Setting', value: 'Value', source: 'Source', show_defaults: 'Show defaults as well',
    serving: 'serving', draining: 'draining', lost: 'No answer from simple-proxy; trying again.',
    about: (s) => `version ${s.version}, up ${time(s.uptime)}`,
    client: 'Clients', self: 'simple-proxy', proxy: 'Proxy', upstream: 'Upstream',
    ok: 'working', failed: 'failing', unknown: 'not used yet',
    connections: (n) => `${n} connected`, listening: (a) => a.join(', '),
    dialled: (n) => `last connected ${ago(n)}`, failed_at: (n) => `last failed ${ago(n)}`,
    step: { 'passed-over': 'skipped proxies', resolve: 'resolve', connect: 'connect', 'proxy-tls': 'TLS to the proxy', proxy: 'handshake', tls: 'TLS' },
    requests: 'Requests per second', responses: 'Response time', dials: 'Connect time',
    sockets: 'Open WebSockets', up: 'Sent to the upstream', down: 'Sent to clients', clients: 'Client connections', errors: 'Failures per minute',
    in_all: (n) => `${count(n)} in total`, in_all_bytes: (n) => `${bytes(n)} in total`, kept: (h, m) => h + m ? `${Math.round(100 * h / (h + m))}% of requests reused a connection` : '',
    peak: (v) => `peak ${v}`, none: 'No request has failed since the start.', second: 's',
    ago: (t) => `${t} ago`, just: 'just now', plot: (what, v) => `${what}: now ${v}, with the last minutes as a line`,
    status: (n) => `${n.map((c, i) => c ? `${count(c)} × ${i + 1}xx` : '').filter(Boolean).join(', ')}`,
    default: 'default',
  },
  zh: {
    route: '路由', now: '当前', failures: '最近的失败', settings: '设置',
    setting: '设置项', value: '值', source: '来源', show_defaults: '同时显示默认值',
    serving: '服务中', draining: '正在停止', lost: 'simple-proxy 没有应答，正在重试。',
    about: (s) => `版本 ${s.version}，已运行 ${time(s.uptime)}`,
    client: '客户端', self: 'simple-proxy', proxy: '代理', upstream: '上游',
    ok: '正常', failed: '失败', unknown: '尚未使用',
    connections: (n) => `${n} 个连接`, listening: (a) => a.join('、'),
    dialled: (n) => `${ago(n)}连接成功`, failed_at: (n) => `${ago(n)}失败`,
    step: { 'passed-over': '跳过的代理', resolve: '解析', connect: '连接', 'proxy-tls': '到代理的 TLS', proxy: '握手', tls: 'TLS' },
    requests: '每秒请求数', responses: '响应时间', dials: '连接用时',
    sockets: 'WebSocket 连接数', up: '发往上游', down: '发往客户端', clients: '客户端连接数', errors: '每分钟失败数',
    in_all: (n) => `累计 ${count(n)}`, in_all_bytes: (n) => `累计 ${bytes(n)}`, kept: (h, m) => h + m ? `${Math.round(100 * h / (h + m))}% 的请求复用了连接` : '',
    peak: (v) => `峰值 ${v}`, none: '启动以来没有失败的请求。', second: '秒',
    ago: (t) => `${t}前`, just: '刚刚', plot: (what, v) => `${what}：当前 ${v}，曲线为最近几分钟的变化`,
    status: (n) => `${n.map((c, i) => c ? `${count(c)} × ${i + 1}xx` : '').filter(Boolean).join('，')}`,
    default: '默认',
  },
};
const language = document.documentElement.lang.startsWith('zh') ? 'zh' : 'en';
const W = WORDS[language];
// One value a second: at most five minutes are drawn, and the chart is never narrower than one
// minute.
const KEPT = 300;
const FIRST = 60;
const $ = (id) => document.getElementById(id);
const SVG = 'http://www.w3.org/2000/svg';

function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function count(n) { return n.toLocaleString(language === 'zh' ? 'zh-CN' : 'en'); }

function time(seconds) {
  const units = language === 'zh' ? [' 天 ', ' 小时 ', ' 分 ', ' 秒'] : [' d ', ' h ', ' min ', ' s'];
  const s = Math.floor(seconds);
  const parts = [Math.floor(s / 86400), Math.floor(s / 3600) % 24, Math.floor(s / 60) % 60, s % 60];
  const first = parts.findIndex((part) => part > 0);
  if (first < 0) return `0${units[3]}`;
  return parts.slice(first, first + 2).map((part, n) => part + units[first + n]).join('').trim();
}

function ago(seconds) { return seconds < 2 ? W.just : W.ago(time(seconds)); }

function duration(seconds) {
  if (seconds === null) return '–';
  if (seconds < 0.001) return `${(seconds * 1e6).toFixed(0)} µs`;
  if (seconds < 1) return `${(seconds * 1e3).toFixed(seconds < 0.1 ? 1 : 0)} ms`;
  return `${seconds.toFixed(2)} s`;
}

function bytes(n) {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let unit = 0;
  while (n >= 1024 && unit < units.length - 1) { n /= 1024; unit += 1; }
  return `${n < 10 && unit ? n.toFixed(1) : Math.round(n)} ${units[unit]}`;
}

const rate = (n) => (n >= 100 || Number.isInteger(n) ? count(Math.round(n)) : n.toFixed(1));

// Each tile: its name, its value over an interval (or, with a second parameter, at the end of
// it), the format of the value, and a line below.
const TILES = [
  ['requests', (d) => d.requests / d.seconds, rate, (s) => W.status(s.requests.classes)],
  ['responses', (d) => d.responses ? d.response_seconds / d.responses : null, duration, () => ''],
  ['sockets', (d, s) => s.upgrades.open, count, (s) => W.in_all(s.upgrades.total)],
  ['dials', (d) => d.dials ? d.dial_seconds / d.dials : null, duration,
    (s) => W.kept(s.pool.hits, s.pool.misses)],
  ['up', (d) => d.up / d.seconds, (n) => `${bytes(n)}/s`, (s) => W.in_all_bytes(s.bytes.up)],
  ['down', (d) => d.down / d.seconds, (n) => `${bytes(n)}/s`, (s) => W.in_all_bytes(s.bytes.down)],
  ['clients', (d, s) => s.connections.open, count, (s) => W.in_all(s.connections.total)],
  ['errors', (d) => 60 * d.failures / d.seconds, rate, (s) => W.in_all(s.failed)],
];

const history = TILES.map(() => []);
const drawn = [];

function makeTiles() {
  for (const [name] of TILES) {
    const tile = element('section', undefined, 'tile');
    const value = element('div', '–', 'value');
    const more = element('div', '', 'more soft');
    const plot = document.createElementNS(SVG, 'svg');
    plot.setAttribute('class', 'plot');
    plot.setAttribute('viewBox', `0 0 ${FIRST} 40`);
    plot.setAttribute('preserveAspectRatio', 'none');
    plot.setAttribute('role', 'img');
    const shapes = ['line', 'path', 'path'].map((kind) => document.createElementNS(SVG, kind));
    for (const [n, v] of [['x1', 0], ['x2', KEPT], ['y1', 39.5], ['y2', 39.5]]) shapes[0].setAttribute(n, v);
    shapes[1].setAttribute('class', 'area');
    shapes[2].setAttribute('class', 'line');
    plot.append(...shapes);
    tile.append(element('h3', W[name]), value, more, plot);
    $('tiles').append(tile);
    drawn.push({ value, more, plot, area: shapes[1], line: shapes[2] });
  }
}

function drawPlot(n, write) {
  const values = history[n];
  const known = values.filter((v) => v !== null);
  const { plot, area, line, value } = drawn[n];
  const top = Math.max(...known, 0) || 1;
  const width = Math.max(values.length - 1, FIRST);
  let path = '';
  let last = null;
  values.forEach((v, at) => {
    if (v === null) return;
    const x = width - values.length + 1 + at;
    path += `${path ? 'L' : 'M'}${x} ${(38 - 34 * v / top).toFixed(2)}`;
    last = x;
  });
  line.setAttribute('d', path);
  const first = values.findIndex((v) => v !== null);
  area.setAttribute('d', path ? `${path}L${last} 39.5L${width - values.length + 1 + first} 39.5Z` : '');
  plot.setAttribute('viewBox', `0 0 ${width} 40`);
  plot.setAttribute('aria-label', W.plot(W[TILES[n][0]], value.textContent));
  if (known.length) {
    let title = plot.querySelector('title');
    if (!title) { title = document.createElementNS(SVG, 'title'); plot.prepend(title); }
    title.textContent = W.peak(write(Math.max(...known)));
  }
}

let before = null;

function tiles(s) {
  const totals = {
    requests: s.requests.classes.reduce((a, b) => a + b, 0), failures: s.failed,
    up: s.bytes.up, down: s.bytes.down, uptime: s.uptime,
    responses: s.response.count, response_seconds: s.response.seconds,
    dials: s.dial.count, dial_seconds: s.dial.seconds,
  };
  const previous = before && before.uptime <= totals.uptime ? before : null;
  before = totals;
  if (previous && totals.uptime === previous.uptime) return;
  TILES.forEach(([, of, write, more], n) => {
    drawn[n].more.textContent = more(s);
    let now = null;
    if (previous) {
      const d = Object.fromEntries(Object.keys(totals).map((k) => [k, totals[k] - previous[k]]));
      d.seconds = d.uptime;
      now = of(d, s);
    } else if (of.length > 1) {
      now = of(null, s);
    }
    history[n].push(now);
    if (history[n].length > KEPT) history[n].shift();
    const shown = now !== null ? now : history[n].findLast((v) => v !== null);
    drawn[n].value.textContent = shown === undefined || shown === null ? '–' : write(shown);
    drawPlot(n, write);
  });
}

function arrow() {
  const item = element('li', undefined, 'arrow');
  item.setAttribute('aria-hidden', 'true');
  const svg = document.createElementNS(SVG, 'svg');
  svg.setAttribute('viewBox', '0 0 36 16');
  const path = document.createElementNS(SVG, 'path');
  path.setAttribute('d', 'M2 8H33M27 3l6 5-6 5');
  path.setAttribute('stroke-width', '1.6');
  svg.append(path);
  item.append(svg);
  return item;
}

function hop(h) {
  const item = element('li', undefined, 'hop');
  if (h.state) item.dataset.state = h.state;
  item.append(element('h3', W[h.role]));
  if (h.state) item.append(element('p', W[h.state], 'state'));
  for (const line of h.lines) item.append(element('p', line, 'soft'));
  return item;
}

function route(s) {
  const shown = [
    { role: 'client', lines: [W.connections(count(s.connections.open))] },
    { role: 'self', lines: [W.listening(s.listening)] },
    ...s.hops.map((h) => {
      const lines = [h.address];
      const steps = Object.entries(h.steps).map(([k, v]) => `${W.step[k] || k} ${duration(v)}`);
      if (steps.length) lines.push(steps.join(' · '));
      if (h.succeeded !== null) lines.push(W.dialled(h.succeeded));
      if (h.failed !== null) lines.push(W.failed_at(h.failed));
      return { role: h.role, state: h.state, lines };
    }),
  ];
  $('route').replaceChildren(...shown.flatMap((h, n) => (n ? [arrow(), hop(h)] : [hop(h)])));
  const bad = s.hops.some((h) => h.state === 'failed');
  const pill = $('state');
  const word = s.draining ? W.draining : bad ? W.failed : W.serving;
  if (pill.textContent !== word) pill.textContent = word;
  pill.dataset.state = bad ? 'failed' : s.draining ? 'unknown' : 'ok';
  $('about').textContent = W.about(s);
}

let told = '';

function failures(s) {
  $('no-failures').textContent = s.failures.length ? '' : W.none;
  const key = JSON.stringify(s.failures);
  if (key === told) return;
  told = key;
  $('failures').replaceChildren(...s.failures.map((f) => {
    const item = element('li', undefined, 'failure');
    const head = element('p');
    head.append(element('span', f.stage, 'stage'), ` ${f.method} ${f.path} → ${f.status}`);
    const when = element('p', `${f.time} · ${f.client} · Host: ${f.host}`, 'soft');
    const cause = element('p', f.address ? `${f.address}: ${f.cause}` : f.cause);
    item.append(head, cause, element('p', f.advice, 'advice'), when);
    return item;
  }));
}

let shownSettings = '';

function settings(s) {
  const all = $('all').checked;
  const key = JSON.stringify([s.settings, all]);
  if (key === shownSettings) return;
  shownSettings = key;
  const rows = s.settings.filter((row) => all || row.source !== 'default');
  $('settings').replaceChildren(...rows.map((row) => {
    const line = element('tr', undefined, row.source === 'default' ? 'default' : '');
    const name = element('th', row.name);
    name.scope = 'row';
    line.append(name, element('td', row.value), element('td', row.source === 'default' ? W.default : row.source));
    return line;
  }));
}

let latest = null;
let asking = false;

async function look() {
  if (document.hidden || asking) return;
  asking = true;
  try {
    const answer = await fetch('/status.json', { cache: 'no-store', signal: AbortSignal.timeout(5000) });
    if (!answer.ok) throw new Error(answer.status);
    latest = await answer.json();
    $('lost').hidden = true;
    route(latest);
    tiles(latest);
    failures(latest);
    settings(latest);
  } catch {
    $('lost').textContent = W.lost;
    $('lost').hidden = false;
  } finally {
    asking = false;
  }
}

for (const named of document.querySelectorAll('[data-word]')) named.textContent = W[named.dataset.word];
makeTiles();
$('all').addEventListener('change', () => latest && settings(latest));
document.addEventListener('visibilitychange', look);
look();
setInterval(look, 1000);

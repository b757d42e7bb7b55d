// Draws a dashboard: render.mjs DASHBOARD PROMETHEUS RECORDS RANGE PICTURE WIDTH HEIGHT (see README.md).
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { build } from 'esbuild';

const [file, prometheus, recordsFile, range, picture, width, height] = process.argv.slice(2);
const seconds = Number.parseInt(range, 10) * { s: 1, m: 60, h: 3600 }[range.at(-1)];
const to = Math.floor(Date.now() / 1000);
const from = to - seconds;
const step = Math.max(5, Math.round(seconds / 200));
const dashboard = JSON.parse(readFileSync(file, 'utf8'));
const records = readFileSync(recordsFile, 'utf8').split('\n').filter(Boolean).map((line) => JSON.parse(line));

const interpolate = (expr) =>
  expr.replaceAll('$__rate_interval', '20s').replaceAll('$__range', `${seconds}s`).replaceAll(/\$(cluster|namespace|job|pool)/g, '.*');

async function ask(target) {
  const query = encodeURIComponent(interpolate(target.expr));
  const path = target.instant ? `query?query=${query}&time=${to}` : `query_range?query=${query}&start=${from}&end=${to}&step=${step}`;
  const answer = await (await fetch(`${prometheus}/api/v1/${path}`)).json();
  if (answer.status !== 'success') throw new Error(`${target.expr}: ${answer.error}`);
  return answer.data.result.map(({ metric, value, values }) => ({ metric, values: values ?? [value] }));
}

// What Loki would make of a record: attributes with underscores.
const stored = (record) =>
  Object.fromEntries([['severity_text', record.severity_text], ...Object.entries(record.attributes).map(([name, value]) => [name.replaceAll('.', '_'), String(value)])]);

// The part of LogQL that the dashboards use: `| label op "value"`, and the labels that topk counts by.
function fromRecords(expr) {
  const filters = [...interpolate(expr).matchAll(/\| (\w+)(=~|!=|=)"([^"]*)"/g)].map(([, name, op, value]) => (labels) => {
    const is = labels[name] ?? '';
    return op === '=~' ? new RegExp(`^(${value})$`).test(is) : (is === value) === (op === '=');
  });
  const recent = records.filter((record) => Date.parse(record.timestamp) >= from * 1000);
  const found = recent.map((record) => [record, stored(record)]).filter(([, labels]) => filters.every((holds) => holds(labels)));
  const by = expr.match(/sum by \(([^)]*)\)/)?.[1].split(', ')[0];
  if (!by) return found.map(([record]) => record).reverse().slice(0, 12);
  const counts = Object.entries(Object.groupBy ? Object.groupBy(found, ([, labels]) => labels[by] ?? '') : {});
  return counts.map(([name, all]) => ({ metric: { [by]: name }, values: [[to, String(all.length)]] }))
    .sort((one, other) => other.values[0][1] - one.values[0][1]).slice(0, 10);
}
Object.groupBy ??= (list, key) => list.reduce((groups, one) => ((groups[key(one)] ??= []).push(one), groups), {});

for (const panel of dashboard.panels) {
  panel.answers = await Promise.all((panel.targets ?? []).map((target) => (target.datasource.type === 'loki' ? fromRecords(target.expr) : ask(target))));
}

const here = import.meta.dirname ?? new URL('.', import.meta.url).pathname;
const bundle = await build({
  entryPoints: [join(here, 'page.jsx')], bundle: true, write: false, format: 'iife', jsx: 'automatic', logLevel: 'error',
  define: { 'process.env.NODE_ENV': '"production"', global: 'window' }, loader: { '.css': 'empty', '.svg': 'text', '.ttf': 'empty', '.woff': 'empty', '.woff2': 'empty' },
});
const work = mkdtempSync(join(tmpdir(), 'render-'));
const data = JSON.stringify({ dashboard, from: from * 1000, to: to * 1000, width: Number(width) }).replaceAll('<', '\\u003c');
const plots = readFileSync(join(here, 'node_modules/uplot/dist/uPlot.min.css'), 'utf8');
writeFileSync(join(work, 'page.html'), `<!doctype html><meta charset="utf-8"><style>${plots}</style><body><div id="root"></div><script>window.process={env:{}};window.DATA=${data}</script><script src="page.js"></script>`);
writeFileSync(join(work, 'page.js'), bundle.outputFiles[0].text);
execFileSync('chromium', [
  '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
  '--disable-component-update', '--disable-sync', '--hide-scrollbars', '--allow-file-access-from-files', '--enable-logging=stderr',
  `--user-data-dir=${join(work, 'profile')}`, `--window-size=${width},${height}`, '--virtual-time-budget=20000',
  `--screenshot=${picture}`, `file://${join(work, 'page.html')}`,
], { stdio: ['ignore', 'inherit', process.env.VERBOSE ? 'inherit' : 'ignore'] });
rmSync(work, { recursive: true, force: true });

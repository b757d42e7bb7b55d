// The page: every panel of window.DATA.dashboard at its place, drawn by Grafana's own components.
import { createTheme, dateTime, FieldType, getDisplayProcessor, ThemeContext, toDataFrame } from '@grafana/data';
import { BigValue, BigValueColorMode, BigValueGraphMode, BigValueTextMode, GlobalStyles, PanelChrome, TimeSeries } from '@grafana/ui';
import { createRoot } from 'react-dom/client';

const { dashboard, from, to, width } = window.DATA;
const theme = createTheme({ colors: { mode: 'dark' } });
const CELL = 38;
const GAP = 8;
const column = (width - 2 * GAP) / 24;
window.onerror = (message) => console.error('page:', message);

const legend = (target, metric) => target.legendFormat.replace(/{{(\w+)}}/g, (_, name) => metric[name] ?? '') || JSON.stringify(metric);

function frames(panel) {
  const made = panel.targets.flatMap((target, index) =>
    panel.answers[index].map(({ metric, values }) => {
      const filled = [];
      for (const [at, value] of values) filled.push([at * 1000, Number(value)]);
      const name = legend(target, metric);
      return toDataFrame({
        name, refId: target.refId,
        fields: [
          { name: 'Time', type: FieldType.time, values: filled.map(([at]) => at), config: {} },
          { name, type: FieldType.number, values: filled.map(([, value]) => (Number.isFinite(value) ? value : null)), config: {}, labels: {} },
        ],
      });
    })
  );
  made.forEach((frame, seriesIndex) => {
    const field = frame.fields[1];
    const { custom, ...defaults } = panel.fieldConfig.defaults;
    field.config = { ...defaults, custom: { ...custom }, displayName: field.name };
    field.state = { seriesIndex };
    for (const { matcher, properties } of panel.fieldConfig.overrides) {
      const { id, options } = matcher;
      if (id === 'byName' ? field.name === options : new RegExp(options.slice(1, -1)).test(field.name)) {
        for (const { id, value } of properties) {
          if (id === 'color') field.config.color = value;
          else field.config.custom[id.replace('custom.', '')] = value;
        }
      }
    }
    field.display = getDisplayProcessor({ field, theme, timeZone: 'utc' });
  });
  return made;
}

const Nothing = ({ text }) => <div style={{ padding: 24, textAlign: 'center', color: theme.colors.text.secondary }}>{text}</div>;

function Stat({ panel, width, height }) {
  const [frame] = frames(panel);
  const field = frame?.fields.find(({ type }) => type === FieldType.number);
  const value = field && field.values[field.values.length - 1];
  if (value === undefined) return <Nothing text={panel.fieldConfig.defaults.noValue ?? 'no data'} />;
  return <BigValue theme={theme} width={width} height={height} value={field.display(value)} colorMode={BigValueColorMode.Value} graphMode={BigValueGraphMode.None} textMode={BigValueTextMode.Value} />;
}

function Series({ panel, width, height }) {
  const data = frames(panel);
  if (!data.length) return <Nothing text="none" />;
  return (
    <TimeSeries frames={data} width={width} height={height} timeRange={{ from: dateTime(from), to: dateTime(to), raw: { from: '', to: '' } }}
      timeZone="utc" legend={panel.options.legend} options={panel.options} replaceVariables={(text) => text} structureRev={1} tweakAxis={(axis) => axis}>
      {() => null}
    </TimeSeries>
  );
}

function Rows({ panel }) {
  const renames = panel.transformations[0].options.renameByName;
  const rows = panel.answers[0].map(({ metric, values }) => ({ ...metric, Value: values.at(-1)[1], 'Value #A': values.at(-1)[1] }));
  const columns = Object.keys(renames).filter((name) => rows.some((row) => row[name] !== undefined));
  const numeric = (name) => name.startsWith('Value');
  rows.sort((one, other) => other.Value - one.Value);
  if (!rows.length) return <Nothing text="none" />;
  const cell = { padding: '5px 8px', borderBottom: `1px solid ${theme.colors.border.weak}`, textAlign: 'left' };
  return (
    <table style={{ width: '100%', fontSize: 12 }}>
      <thead><tr>{columns.map((name) => <th key={name} style={{ ...cell, color: theme.colors.text.primary }}>{renames[name]}</th>)}</tr></thead>
      <tbody>{rows.map((row, index) => <tr key={index}>{columns.map((name) => <td key={name} style={{ ...cell, textAlign: numeric(name) ? 'right' : 'left' }}>{numeric(name) ? Math.round(row[name]) : row[name]}</td>)}</tr>)}</tbody>
    </table>
  );
}

const Lines = ({ panel }) => (
  <div style={{ fontFamily: 'monospace', fontSize: 12, padding: 4 }}>
    {panel.answers[0].map((record, index) => (
      <div key={index} style={{ borderLeft: `3px solid ${record.severity_text === 'ERROR' ? '#f2495c' : '#ff9830'}`, padding: '2px 8px', margin: 2 }}>
        {record.timestamp} {record.body}
      </div>
    ))}
  </div>
);

const KINDS = { stat: Stat, timeseries: Series, table: Rows, logs: Lines };

function Panel({ panel }) {
  const { x, y, w, h } = panel.gridPos;
  const place = { position: 'absolute', left: GAP + x * column, top: 48 + y * CELL };
  if (panel.type === 'row') {
    return <div style={{ ...place, fontWeight: 500, paddingTop: 10 }}>{panel.collapsed ? '›' : '⌄'} {panel.title}</div>;
  }
  const Kind = KINDS[panel.type];
  return (
    <div style={place}>
      <PanelChrome width={w * column - GAP} height={h * CELL - GAP} title={panel.title} description={panel.description} padding={panel.type === 'logs' || panel.type === 'table' ? 'none' : 'md'}>
        {(width, height) => <div style={{ width, height, overflow: 'hidden' }}><Kind panel={panel} width={width} height={height} /></div>}
      </PanelChrome>
    </div>
  );
}

createRoot(document.getElementById('root')).render(
  <ThemeContext.Provider value={theme}>
    <GlobalStyles />
    <div style={{ position: 'relative', color: theme.colors.text.primary, fontFamily: 'Inter, sans-serif' }}>
      <div style={{ position: 'absolute', left: 16, top: 14, fontSize: 18, fontWeight: 500 }}>{dashboard.title}</div>
      {dashboard.panels.map((panel) => <Panel key={panel.id} panel={panel} />)}
    </div>
  </ThemeContext.Provider>
);

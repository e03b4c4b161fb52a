import 'uplot/dist/uPlot.min.css';
import { useEffect, useRef } from 'react';
import UPlot from 'uplot';
import { useFormat } from '../i18n/use-format.ts';
import { useTexts } from '../i18n/use-texts.ts';
import { overviewTexts } from './texts.ts';
import { useColorScheme } from './use-color-scheme.ts';

export interface Series {
  readonly label: string;
  /** The custom property of its colour, such as `--accent`. */
  readonly color: string;
  readonly values: readonly (number | null)[];
}

export interface ChartProps {
  readonly title: string;
  /** What a screen reader says instead of the drawing. */
  readonly summary: string;
  /** Seconds since 1970. */
  readonly times: readonly number[];
  readonly series: readonly Series[];
}

const height = 180;
/** Seconds between the marks of the time; none below a minute, which is what they show. */
const timeSteps = [60, 120, 300, 600, 900, 1800, 3600];

/** Lines over time. The legend shows the values at the pointer. */
export function Chart({ title, summary, times, series }: ChartProps) {
  const timeLabel = useTexts(overviewTexts)('charts.time');
  const frame = useRef<HTMLDivElement>(null);
  const plot = useRef<UPlot>(undefined);
  const format = useFormat();
  const scheme = useColorScheme();
  const labels = series.map(({ label }) => label).join('\n');
  const colors = series.map(({ color }) => color).join('\n');
  // The drawing is made anew only for other words or colours; new values are set into it.
  // biome-ignore lint/correctness/useExhaustiveDependencies: the scheme changes the colours that are read here.
  useEffect(() => {
    const element = frame.current;
    if (element === null) return;
    const style = getComputedStyle(element);
    // A canvas takes no light-dark(): the colour of an element that has it does.
    const colorOf = (name: string) => {
      element.style.color = `var(${name})`;
      const found = getComputedStyle(element).color;
      element.style.color = '';
      return found;
    };
    const axis = {
      stroke: colorOf('--muted'),
      grid: { stroke: colorOf('--line'), width: 1 },
      ticks: { show: false },
      font: `12px ${style.fontFamily}`,
    };
    const keys = colors.split('\n');
    const made = new UPlot(
      {
        width: element.clientWidth,
        height,
        padding: [12, 24, 0, 0],
        cursor: { y: false, drag: { x: false, y: false } },
        hooks: { draw: [showLatest], setCursor: [showLatest] },
        scales: { y: { range: (_, __, most) => [0, Math.max(most, 1) * 1.1] } },
        axes: [
          {
            ...axis,
            size: 30,
            incrs: timeSteps,
            values: (_, splits) => splits.map((each) => format.clock(each * 1000)),
          },
          { ...axis, size: 56, values: (_, splits) => splits.map((each) => format.number(each)) },
        ],
        series: [
          { label: timeLabel, value: (_, at) => (at === null ? '–' : format.clock(at * 1000)) },
          ...labels.split('\n').map((label, index) => ({
            label,
            stroke: colorOf(keys[index] ?? '--accent'),
            width: 2,
            points: { size: 5 },
            value: (_: UPlot, value: number | null) => (value === null ? '–' : format.number(round(value))),
          })),
        ],
      },
      [[], ...labels.split('\n').map(() => [])],
      element,
    );
    plot.current = made;
    const resized = new ResizeObserver(() => made.setSize({ width: element.clientWidth, height }));
    resized.observe(element);
    return () => {
      resized.disconnect();
      made.destroy();
    };
  }, [labels, colors, format, scheme, timeLabel]);
  useEffect(() => {
    plot.current?.setData([times.slice(), ...series.map(({ values }) => values.slice())] as UPlot.AlignedData);
  });
  return (
    <figure className="card chart">
      <figcaption>
        <h2>{title}</h2>
        <p className="visually-hidden">{summary}</p>
      </figcaption>
      <div ref={frame} className="chart-frame" aria-hidden="true" />
    </figure>
  );
}

/** Without a pointer the legend shows the latest values. */
function showLatest(plot: UPlot): void {
  if (plot.cursor.idx == null && plot.data[0].length > 0) plot.setLegend({ idx: plot.data[0].length - 1 }, false);
}

function round(value: number): number {
  return value < 10 ? Number(value.toFixed(1)) : Math.round(value);
}

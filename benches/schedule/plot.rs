//! Plots as plain SVG: medium colours without a background, readable in light and dark mode.

#![allow(dead_code, reason = "shared by two benchmarks, each of which uses its own part")]

use std::fmt::Write;

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 360.0;
const LEFT: f64 = 48.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 64.0;
const BOTTOM: f64 = 40.0;

const INK: &str = "#808890";
const COLOURS: [&str; 4] = ["#9aa3ab", "#4a8fe7", "#8a6fd1", "#e08030"];

/// The colours of the curves of one [`Growth`].
const GROWTH_COLOURS: [&str; 5] = ["#4a8fe7", "#e08030", "#8a6fd1", "#3fa36b", "#c94f6d"];

/// The colour of a policy in every plot.
fn colour(name: &str) -> &'static str {
    match name {
        "round-robin" => COLOURS[0],
        "known rates" => COLOURS[1],
        "foreseen rates" => COLOURS[2],
        _ => COLOURS[3],
    }
}

/// Curves over a plane whose axes are both logarithmic, each curve as a multiple of its first value.
pub(super) struct Growth<'a> {
    pub(super) title: &'a str,
    pub(super) curves: &'a [Curve<'a>],
}

impl Growth<'_> {
    pub(super) fn draw(&self) -> String {
        let names: Vec<&str> = self.curves.iter().map(|curve| curve.name).collect();
        let mut svg = frame_in(self.title, &names, |place, _| GROWTH_COLOURS[place % GROWTH_COLOURS.len()]);
        let logs: Vec<Vec<(f64, f64)>> = self.curves.iter().map(Self::logarithms).collect();
        let all = || logs.iter().flatten();
        let range = |of: fn(&(f64, f64)) -> f64| {
            let (least, most) =
                all().map(of).fold((0.0_f64, 0.0_f64), |(least, most), at| (least.min(at), most.max(at)));
            (least.floor(), most.ceil().max(least.floor() + 1.0))
        };
        let (left, right) = range(|point| point.0);
        let (low, high) = range(|point| point.1);
        let x = |at: f64| LEFT + (at - left) / (right - left) * (WIDTH - LEFT - RIGHT);
        let y = |at: f64| HEIGHT - BOTTOM - (at - low) / (high - low) * (HEIGHT - TOP - BOTTOM);
        let steps =
            |from: f64, to: f64| std::iter::successors(Some(from), |at| Some(at + 1.0)).take_while(move |at| *at <= to);
        for at in steps(left, right) {
            text(&mut svg, (x(at), HEIGHT - BOTTOM + 18.0), "middle", 12, &format!("{}", 10_f64.powf(at)));
        }
        for at in steps(low, high) {
            line(&mut svg, (LEFT, y(at)), (WIDTH - RIGHT, y(at)));
            text(&mut svg, (LEFT - 8.0, y(at) + 4.0), "end", 12, &format!("{}", 10_f64.powf(at)));
        }
        for (place, points) in logs.iter().enumerate() {
            let points: Vec<_> = points.iter().map(|(at, value)| format!("{:.1},{:.1}", x(*at), y(*value))).collect();
            let (points, colour) = (points.join(" "), GROWTH_COLOURS[place % GROWTH_COLOURS.len()]);
            let _ = writeln!(svg, r#"<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.8"/>"#);
        }
        svg + "</svg>\n"
    }

    /// The points in powers of ten, with the value as a multiple of the first.
    fn logarithms(curve: &Curve<'_>) -> Vec<(f64, f64)> {
        let first = curve.points.first().map_or(1.0, |(_, value)| *value);
        curve.points.iter().map(|(at, value)| (at.max(1.0).log10(), (value / first).log10())).collect()
    }
}

/// Groups of four bars.
pub(super) struct Bars<'a> {
    pub(super) title: &'a str,
    pub(super) names: [&'a str; 4],
    pub(super) groups: &'a [(&'a str, [f64; 4])],
}

impl Bars<'_> {
    pub(super) fn draw(&self) -> String {
        let most = self.groups.iter().flat_map(|(_, values)| values).copied().fold(0.0, f64::max) * 1.08;
        let mut svg = frame(self.title, &self.names);
        let (across, up) = (WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM);
        let group = across / self.groups.len() as f64;
        for (place, (label, values)) in self.groups.iter().enumerate() {
            let left = LEFT + group * place as f64;
            let bar = group * 0.2;
            for (which, (name, value)) in self.names.iter().zip(values).enumerate() {
                let (x, tall) = (left + group * 0.1 + bar * which as f64, value / most * up);
                let y = HEIGHT - BOTTOM - tall;
                rect(&mut svg, (x, y), (bar - 2.0, tall), colour(name), 1.0);
                text(&mut svg, (x + bar / 2.0 - 1.0, y - 4.0), "middle", 10, &format!("{value:.1}"));
            }
            text(&mut svg, (left + group / 2.0, HEIGHT - BOTTOM + 18.0), "middle", 12, label);
        }
        line(&mut svg, (LEFT, HEIGHT - BOTTOM), (WIDTH - RIGHT, HEIGHT - BOTTOM));
        svg + "</svg>\n"
    }
}

pub(super) struct Curve<'a> {
    pub(super) name: &'a str,
    pub(super) points: Vec<(f64, f64)>,
}

/// Curves over a plane from zero to `width` and `height`.
pub(super) struct Curves<'a> {
    pub(super) title: &'a str,
    pub(super) width: f64,
    pub(super) height: f64,
    pub(super) step: (f64, f64),
    pub(super) shaded: Option<(f64, f64)>,
    pub(super) curves: &'a [Curve<'a>],
}

impl Curves<'_> {
    pub(super) fn draw(&self) -> String {
        let names: Vec<&str> = self.curves.iter().map(|curve| curve.name).collect();
        let mut svg = frame(self.title, &names);
        let x = |value: f64| LEFT + value.min(self.width) / self.width * (WIDTH - LEFT - RIGHT);
        let y = |value: f64| HEIGHT - BOTTOM - value.min(self.height) / self.height * (HEIGHT - TOP - BOTTOM);
        if let Some((from, to)) = self.shaded {
            rect(&mut svg, (x(from), TOP), (x(to) - x(from), HEIGHT - TOP - BOTTOM), COLOURS[3], 0.12);
        }
        let steps =
            |end: f64, step: f64| (0..).map(move |place| f64::from(place) * step).take_while(move |at| *at <= end);
        for value in steps(self.width, self.step.0) {
            text(&mut svg, (x(value), HEIGHT - BOTTOM + 18.0), "middle", 12, &format!("{value}"));
        }
        for value in steps(self.height, self.step.1) {
            line(&mut svg, (LEFT, y(value)), (WIDTH - RIGHT, y(value)));
            text(&mut svg, (LEFT - 8.0, y(value) + 4.0), "end", 12, &format!("{value}"));
        }
        for curve in self.curves {
            let points: Vec<_> =
                curve.points.iter().map(|(at, value)| format!("{:.1},{:.1}", x(*at), y(*value))).collect();
            let (points, colour) = (points.join(" "), colour(curve.name));
            let _ = writeln!(svg, r#"<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.8"/>"#);
        }
        svg + "</svg>\n"
    }
}

/// The head of a plot: its title and the legend of colours.
fn frame(title: &str, names: &[&str]) -> String {
    frame_in(title, names, |_, name| colour(name))
}

fn frame_in(title: &str, names: &[&str], colour: impl Fn(usize, &str) -> &'static str) -> String {
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" fill=\"{INK}\">\n\
         <title>{title}</title>\n"
    );
    text(&mut svg, (LEFT, 22.0), "start", 15, title);
    for (place, name) in names.iter().enumerate() {
        let at = LEFT + 150.0 * place as f64;
        rect(&mut svg, (at, 34.0), (12.0, 12.0), colour(place, name), 1.0);
        text(&mut svg, (at + 18.0, 44.5), "start", 12, name);
    }
    svg
}

fn rect(svg: &mut String, (x, y): (f64, f64), (width, height): (f64, f64), colour: &str, opacity: f64) {
    let _ = writeln!(
        svg,
        r#"<rect x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}" fill="{colour}" fill-opacity="{opacity}"/>"#
    );
}

fn line(svg: &mut String, (x1, y1): (f64, f64), (x2, y2): (f64, f64)) {
    let _ = writeln!(
        svg,
        r#"<line x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}" stroke="{INK}" stroke-opacity="0.35"/>"#
    );
}

fn text(svg: &mut String, (x, y): (f64, f64), anchor: &str, size: u8, words: &str) {
    let _ = writeln!(svg, r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}" font-size="{size}">{words}</text>"#);
}

//! The measurements, as a table and as a chart.

use super::measure::Measured;
use std::fmt::Write as _;

/// The program whose bars stand out in the chart and with which the others are compared.
pub const OURS: &str = "dolibarr-backup";

/// Another build of the same program.
pub const BASELINE: &str = "the baseline";

/// Heights and widths of the chart, in pixels.
const BAR: usize = 16;
const GAP: usize = 26;
const LABEL: usize = 260;
const WIDTH: usize = 860;

/// All results of one benchmark.
#[derive(Debug)]
pub struct Board {
    pub title: String,
    /// Lines below the title: what was measured, what was left out, and why.
    pub notes: Vec<String>,
    works: Vec<Work>,
}

/// One kind of work, and who did it.
#[derive(Debug)]
struct Work {
    name: String,
    series: Vec<Series>,
}

#[derive(Debug)]
struct Series {
    who: String,
    runs: Vec<Measured>,
    stored_bytes: Option<u64>,
}

impl Board {
    pub fn new(title: impl Into<String>) -> Self {
        Self { title: title.into(), notes: Vec::new(), works: Vec::new() }
    }

    /// Adds one run. The first runs determine the order of the table.
    pub fn add(&mut self, work: &str, who: &str, run: Measured) {
        eprintln!("{work}: {who} {:.2} s", run.seconds);
        self.series(work, who).runs.push(run);
    }

    /// Sets the size of the store after the work.
    pub fn stored(&mut self, work: &str, who: &str, bytes: u64) {
        self.series(work, who).stored_bytes = Some(bytes);
    }

    fn series(&mut self, work: &str, who: &str) -> &mut Series {
        let at = self.works.iter().position(|w| w.name == work).unwrap_or_else(|| {
            self.works.push(Work { name: work.to_owned(), series: Vec::new() });
            self.works.len() - 1
        });
        let series = &mut self.works[at].series;
        let at = series.iter().position(|s| s.who == who).unwrap_or_else(|| {
            series.push(Series { who: who.to_owned(), runs: Vec::new(), stored_bytes: None });
            series.len() - 1
        });
        &mut series[at]
    }

    pub fn markdown(&self) -> String {
        let mut text = String::new();
        for note in &self.notes {
            let _ = writeln!(text, "{note}\n");
        }
        for work in &self.works {
            let _ = writeln!(text, "## {}\n", work.name);
            let ours = work.series.iter().find(|s| s.who.starts_with(OURS)).map(Series::median);
            text.push_str(
                "| | median s | from – to | of ours | peak MiB | stored MiB |\n| --- | --- | --- | --- | --- | --- |\n",
            );
            for series in &work.series {
                let (from, to) = series.range();
                let ratio = ours.map_or(String::new(), |ours| format!("{:.2}", series.median() / ours));
                let peak = series.peak().map_or(String::new(), |peak| format!("{peak:.0}"));
                let stored =
                    series.stored_bytes.map_or(String::new(), |b| format!("{:.1}", b as f64 / f64::from(1 << 20)));
                let _ = writeln!(
                    text,
                    "| {} | {:.2} | {from:.2} – {to:.2} | {ratio} | {peak} | {stored} |",
                    series.who,
                    series.median()
                );
            }
            text.push('\n');
        }
        text
    }

    /// Bars of the medians, grouped by kind of work. Each group has its own scale.
    pub fn svg(&self) -> String {
        let rows: usize = self.works.iter().map(|work| work.series.len()).sum();
        let height = rows * (BAR + 4) + self.works.len() * (GAP + 14) + 10;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
             <title>{}</title>\n<rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>\n",
            escaped(&self.title)
        );
        let mut y = 0;
        for work in &self.works {
            y += GAP;
            let _ = writeln!(
                svg,
                "<text x=\"8\" y=\"{y}\" font-weight=\"bold\" fill=\"#222222\">{}, seconds</text>",
                escaped(&work.name)
            );
            y += 8;
            let longest = work.series.iter().map(Series::median).fold(f64::MIN_POSITIVE, f64::max);
            for series in &work.series {
                let length = (series.median() / longest * (WIDTH - LABEL - 70) as f64).max(1.0);
                let colour = if series.who.starts_with(OURS) { "#1a7f5a" } else { "#9aa5b1" };
                let text = y + BAR - 4;
                let _ = writeln!(
                    svg,
                    "<text x=\"{}\" y=\"{text}\" text-anchor=\"end\" fill=\"#222222\">{}</text>\
                     <rect x=\"{LABEL}\" y=\"{y}\" width=\"{length:.1}\" height=\"{BAR}\" fill=\"{colour}\"/>\
                     <text x=\"{:.1}\" y=\"{text}\" fill=\"#222222\">{:.2}</text>",
                    LABEL - 8,
                    escaped(&series.who),
                    LABEL as f64 + length + 6.0,
                    series.median()
                );
                y += BAR + 4;
            }
            y += 6;
        }
        svg.push_str("</svg>\n");
        svg
    }
}

impl Series {
    fn median(&self) -> f64 {
        let mut seconds: Vec<f64> = self.runs.iter().map(|run| run.seconds).collect();
        seconds.sort_by(f64::total_cmp);
        seconds.get(seconds.len() / 2).copied().unwrap_or(f64::NAN)
    }

    fn range(&self) -> (f64, f64) {
        let seconds = || self.runs.iter().map(|run| run.seconds);
        (seconds().fold(f64::INFINITY, f64::min), seconds().fold(0.0, f64::max))
    }

    fn peak(&self) -> Option<f64> {
        self.runs.iter().filter_map(|run| run.peak_mib).reduce(f64::max)
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('`', "")
}

//! The cost of a round trip against the number of sessions, as an SVG picture.

use std::fmt::Write;

use super::report::Report;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 400.0;
const LEFT: f64 = 60.0;
const RIGHT: f64 = 150.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 50.0;

/// Colours that differ for colour-blind eyes too (Okabe and Ito's palette).
const COLOURS: [&str; 6] = ["#0072b2", "#d55e00", "#e69f00", "#009e73", "#cc79a7", "#56b4e9"];

/// One curve for each proxy, from the measures that have a number of sessions.
pub fn svg(report: &Report) -> String {
    let curve_measures: Vec<_> =
        report.measures.iter().filter_map(|measure| measure.sessions.map(|sessions| (sessions, measure))).collect();
    let mut curves: Vec<(&str, Vec<(usize, f64)>)> = Vec::new();
    for (sessions, measure) in &curve_measures {
        for column in &measure.columns {
            match curves.iter_mut().find(|(name, _)| *name == column.proxy) {
                Some((_, points)) => points.push((*sessions, column.median)),
                None => curves.push((&column.proxy, vec![(*sessions, column.median)])),
            }
        }
    }
    let values = || curves.iter().flat_map(|(_, points)| points);
    let sessions_max = values().map(|(sessions, _)| *sessions).max().unwrap_or(1).max(2);
    let cost_max = values().map(|(_, cost)| *cost).fold(1.0, f64::max) * 1.1;
    let x = |sessions: usize| LEFT + (WIDTH - LEFT - RIGHT) * (sessions as f64).ln() / (sessions_max as f64).ln();
    let y = |cost: f64| HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * cost / cost_max;

    let mut out = String::new();
    write_svg(
        &mut out,
        &curve_measures.iter().map(|(sessions, _)| *sessions).collect::<Vec<_>>(),
        &curves,
        x,
        y,
        cost_max,
    )
    .expect("writing to a string cannot fail");
    out
}

fn write_svg(
    out: &mut String,
    ticks: &[usize],
    curves: &[(&str, Vec<(usize, f64)>)],
    x: impl Fn(usize) -> f64,
    y: impl Fn(f64) -> f64,
    cost_max: f64,
) -> std::fmt::Result {
    writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"13\">"
    )?;
    writeln!(out, "<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>")?;
    writeln!(out, "<text x=\"{LEFT}\" y=\"22\" font-size=\"15\">CPU per round trip, µs, by number of sessions</text>")?;
    let step = [0.5, 1.0, 2.0, 5.0, 10.0, 20.0].into_iter().find(|step| cost_max / step <= 8.0).unwrap_or(50.0);
    let mut cost = 0.0;
    while cost <= cost_max {
        let (at, end) = (y(cost), WIDTH - RIGHT);
        writeln!(out, "<line x1=\"{LEFT}\" x2=\"{end}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>")?;
        writeln!(out, "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{cost}</text>", LEFT - 8.0, at + 4.0)?;
        cost += step;
    }
    for sessions in ticks {
        writeln!(
            out,
            "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{sessions}</text>",
            x(*sessions),
            HEIGHT - BOTTOM + 20.0
        )?;
    }
    // names are moved down if curves end close together
    let mut ends: Vec<_> = curves.iter().zip(COLOURS.iter().cycle()).collect();
    let end_of = |points: &[(usize, f64)]| points.last().map_or(0.0, |(_, cost)| y(*cost));
    ends.sort_by(|((_, a), _), ((_, b), _)| end_of(a).total_cmp(&end_of(b)));
    let mut lowest = 0.0;
    for ((name, points), colour) in ends {
        let path: Vec<String> =
            points.iter().map(|(sessions, cost)| format!("{:.1},{:.1}", x(*sessions), y(*cost))).collect();
        writeln!(
            out,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            path.join(" ")
        )?;
        for (sessions, cost) in points {
            writeln!(out, "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"{colour}\"/>", x(*sessions), y(*cost))?;
        }
        let at = f64::max(end_of(points) + 4.0, lowest + 16.0);
        lowest = at;
        writeln!(out, "<text x=\"{}\" y=\"{at:.1}\" fill=\"{colour}\">{name}</text>", WIDTH - RIGHT + 10.0)?;
    }
    writeln!(out, "</svg>")
}

#[cfg(test)]
mod tests {
    use super::super::report::Measure;
    use super::*;

    #[test]
    fn each_proxy_has_its_curve() {
        let measures = [1, 8, 64].map(|sessions| {
            let mut measure = Measure::new("round trip", "µs").at_sessions(sessions);
            measure.add("pgvane", 9.0);
            measure.add("HAProxy", 10.0);
            measure.finish();
            measure
        });
        let picture = svg(&Report { measures: measures.into() });
        assert_eq!(picture.matches("<polyline").count(), 2);
        assert_eq!(picture.matches("<circle").count(), 6);
    }
}

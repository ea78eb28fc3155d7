//! A report as an SVG plot: for each cell a bar for each path, with its spread as a line.

use std::path::Path as File;

use plotters::{
    backend::SVGBackend,
    chart::{ChartBuilder, SeriesLabelPosition},
    coord::ranged1d::{IntoSegmentedCoord as _, SegmentValue},
    drawing::IntoDrawingArea as _,
    element::{PathElement, Rectangle},
    series::LineSeries,
    style::{BLACK, Color as _, RGBColor, WHITE},
};

use super::{Error, Report};
use crate::{figures::Figure, job::Path};

const COLOURS: [RGBColor; 3] = [RGBColor(170, 170, 170), RGBColor(86, 133, 189), RGBColor(222, 139, 60)];
const NAMES: [&str; 3] = ["(a) ordinary client", "(b) tuned direct client", "(c) through the gateway"];

pub(super) fn draw(report: &Report, file: &File) -> Result<(), Error> {
    let failed = |error: &dyn std::fmt::Display| Error::Plot(error.to_string());
    let groups: Vec<(String, [Option<Figure>; 3])> = report
        .throughput
        .iter()
        .map(|cell| (label(cell), Path::ALL.map(|path| cell.path(path)?.messages_per_second)))
        .collect();
    let highest = groups.iter().flat_map(|(_, paths)| paths).flatten().map(|figure| figure.max).fold(0.0, f64::max);
    let count = i32::try_from(groups.len()).unwrap_or(i32::MAX);
    if count == 0 {
        return Err(Error::Plot("no throughput was measured".to_owned()));
    }
    let width = u32::try_from(groups.len()).unwrap_or(1).saturating_mul(130).clamp(700, 4000);
    let area = SVGBackend::new(file, (width, 420)).into_drawing_area();
    area.fill(&WHITE).map_err(|error| failed(&error))?;
    let mut chart = ChartBuilder::on(&area)
        .caption("messages per second, median and range", ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(60)
        .y_label_area_size(70)
        .build_cartesian_2d((0..count).into_segmented(), 0.0..highest * 1.15)
        .map_err(|error| failed(&error))?;
    let names = |value: &SegmentValue<i32>| match value {
        SegmentValue::CenterOf(index) => usize::try_from(*index)
            .ok()
            .and_then(|index| groups.get(index))
            .map_or_else(String::new, |(name, _)| name.clone()),
        _ => String::new(),
    };
    chart
        .configure_mesh()
        .disable_x_mesh()
        .x_labels(groups.len())
        .x_label_formatter(&names)
        .y_label_formatter(&|value| format!("{value:.0}"))
        .draw()
        .map_err(|error| failed(&error))?;
    // The bars of a group are side by side in the group's segment of the axis.
    let inner = chart.plotting_area().clone();
    let (columns, _) = inner.dim_in_pixel();
    let segment = f64::from(columns) / f64::from(count);
    for (path, colour) in COLOURS.iter().enumerate() {
        let style = colour.filled();
        chart
            .draw_series(LineSeries::new(std::iter::empty(), style))
            .map_err(|error| failed(&error))?
            .label(NAMES[path])
            .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 12, y + 5)], style));
    }
    let (x_range, y_range) = inner.get_pixel_range();
    let height = f64::from(y_range.end - y_range.start);
    let y = |value: f64| f64::from(y_range.end) - value / (highest * 1.15) * height;
    for (group, (_, paths)) in groups.iter().enumerate() {
        for (path, figure) in paths.iter().enumerate() {
            let Some(figure) = figure else { continue };
            let left = f64::from(x_range.start) + segment * (group as f64 + 0.14 + 0.24 * path as f64);
            let right = left + segment * 0.22;
            let middle = f64::midpoint(left, right);
            let at = |x: f64, value: f64| (x.round() as i32, y(value).round() as i32);
            area.draw(&Rectangle::new([at(left, figure.median), at(right, 0.0)], COLOURS[path].filled()))
                .map_err(|error| failed(&error))?;
            area.draw(&PathElement::new([at(middle, figure.min), at(middle, figure.max)], BLACK.stroke_width(1)))
                .map_err(|error| failed(&error))?;
        }
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.2))
        .draw()
        .map_err(|error| failed(&error))?;
    area.present().map_err(|error| failed(&error))
}

/// A short label of the combination.
fn label(cell: &super::CellReport) -> String {
    let cell = &cell.cell;
    format!(
        "{} B {} {} {}×{} f{}",
        cell.size,
        cell.queue.name(),
        cell.mode.name(),
        cell.tenants,
        cell.streams,
        cell.frame
    )
}

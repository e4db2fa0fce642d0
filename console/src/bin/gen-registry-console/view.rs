//! Draws an [`App`].

use gen_registry_console::json::{Event, Registry, Row as Listed, Worker};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Cell, Clear, Padding, Paragraph, Row, Table, Wrap};

use crate::app::{App, List, SORTS, Screen};
use crate::text::{bars, clean, clock, duration, meter, rate, short};

const HELP: [(&str, &str); 12] = [
    ("↑ ↓ j k", "the row before, the next row"),
    ("PgUp PgDn g G", "twenty rows, the first, the last"),
    ("Enter", "open the row"),
    ("Esc", "back"),
    ("/", "search in keys"),
    ("s S", "sort by the next column, by the one before"),
    ("r", "turn the order"),
    ("n p", "the next page, the page before"),
    ("a", "all registries"),
    ("e", "events"),
    ("?", "this"),
    ("q", "quit"),
];

pub(crate) fn draw(frame: &mut Frame, app: &mut App) {
    let [head, body, foot] =
        Layout::vertical([Constraint::Length(1), Constraint::Fill(1), Constraint::Length(1)]).areas(frame.area());
    frame.render_widget(title(app), head);
    match app.screen.clone() {
        Screen::Registries => registries(frame, app, body),
        Screen::Workers(list) => workers(frame, app, &list, body),
        Screen::Worker { registry, key, .. } => worker(frame, app, registry, &key, body),
        Screen::Events => events(frame, app, body),
    }
    frame.render_widget(footer(app), foot);
    if app.has_help {
        help(frame);
    }
}

fn title(app: &App) -> Line<'static> {
    let mut parts = vec![" gen-registry ".bold().reversed(), " ".into()];
    match &app.screen {
        Screen::Registries => parts.push("all registries".bold()),
        Screen::Events => parts.push("events".bold()),
        Screen::Workers(list) => {
            parts.push(clean(&list.name).bold());
            let of = short(app.page.matched as u64);
            let first = list.offset + usize::from(!app.page.rows.is_empty());
            parts.push(format!("  {first}-{} of {of}", list.offset + app.page.rows.len()).dim());
            if !app.page.complete && app.page.total > 0 {
                parts.push(
                    format!("  ({} of {} examined)", short(app.page.examined as u64), short(app.page.total as u64))
                        .dim(),
                );
            }
        }
        Screen::Worker { key, from, .. } => {
            parts.push(format!("{} › ", clean(&from.name)).dim());
            parts.push(clean(key).bold());
        }
    }
    Line::from(parts)
}

fn footer(app: &App) -> Line<'static> {
    if let Some(problem) = &app.problem {
        return Line::from(format!(" {} Trying again. ", clean(problem)))
            .style(Style::new().fg(Color::White).bg(Color::Red));
    }
    match &app.screen {
        Screen::Workers(list) if app.is_typing => Line::from(vec![
            " /".bold(),
            clean(&list.filter).into(),
            "▏".into(),
            "  Enter keeps it, Esc clears it".dim(),
        ]),
        Screen::Workers(list) => {
            let filter =
                if list.filter.is_empty() { String::new() } else { format!("  filter “{}”", clean(&list.filter)) };
            let order = if list.is_descending { "↓" } else { "↑" };
            Line::from(format!(
                " by {} {order}{filter}   / search  s sort  r turn  n p pages  Enter open  Esc back  ? help",
                SORTS[list.sort].0
            ))
            .dim()
        }
        Screen::Registries => Line::from(" Enter open  e events  ? help  q quit").dim(),
        _ => Line::from(" Enter open  Esc back  a all registries  ? help  q quit").dim(),
    }
}

/// A column: its name, its width, where 0 is what is left, and from which width of the terminal on it is shown.
type Column = (&'static str, u16, u16);

/// Columns whose texts begin at the left. The others have numbers.
const TEXTS: [&str; 9] = ["REGISTRY", "KEY", "STATE", "QUEUE", "WHAT", "KIND", "UTC", "MSG/s, 5 MINUTES", "OF"];

/// A table of those columns for which there is room.
fn table<'a>(rows: impl Iterator<Item = Vec<Cell<'a>>>, columns: &[Column], area: Rect) -> Table<'a> {
    let is_shown = |(_, _, from): &Column| area.width >= *from;
    let shown = columns.iter().filter(|column| is_shown(column));
    let head = shown.clone().map(|(name, ..)| {
        let name = Line::from(*name);
        Cell::from(if TEXTS.contains(&&*name.to_string()) { name } else { name.right_aligned() })
    });
    let widths = shown.map(|(_, width, _)| if *width == 0 { Constraint::Fill(1) } else { Constraint::Length(*width) });
    let rows = rows.map(|cells| {
        Row::new(cells.into_iter().zip(columns).filter(|(_, column)| is_shown(column)).map(|(cell, _)| cell))
    });
    Table::new(rows, widths)
        .header(Row::new(head).style(Style::new().dim().add_modifier(Modifier::UNDERLINED)))
        .row_highlight_style(Style::new().reversed())
        .column_spacing(2)
}

fn right(text: impl Into<Span<'static>>) -> Cell<'static> {
    Cell::from(Line::from(text.into()).right_aligned())
}

/// A number that is red while it is not 0.
fn alarm(number: f64) -> Cell<'static> {
    let text = rate(number);
    if number > 0.0 { right(text.red()) } else { right(text) }
}

fn registries(frame: &mut Frame, app: &mut App, area: Rect) {
    if app.overview.registries.is_empty() {
        return nothing(frame, "No registry is inspected", area);
    }
    let row = |registry: &Registry| {
        let rates = &registry.rates;
        let handled = registry.history.as_ref().map_or(&[][..], |history| &history.handled);
        vec![
            Cell::from(clean(&registry.name)),
            right(short(registry.workers.total() as u64)),
            right(registry.limit.map_or_else(|| "-".to_owned(), |limit| short(limit as u64))),
            right(rate(rates.starts)),
            alarm(rates.restarts),
            right(rate(rates.exits)),
            alarm(rates.crashes),
            right(rate(rates.handled)),
            right(short(registry.queued as u64)),
            alarm(rates.undelivered),
            Cell::from(bars(handled, 30).cyan()),
        ]
    };
    let columns = [
        ("REGISTRY", 0, 0),
        ("WORKERS", 7, 0),
        ("LIMIT", 7, 90),
        ("START/s", 7, 0),
        ("REST/s", 6, 100),
        ("EXIT/s", 6, 90),
        ("CRASH/s", 7, 0),
        ("MSG/s", 7, 0),
        ("WAITING", 7, 0),
        ("LOST/s", 6, 0),
        ("MSG/s, 5 MINUTES", 30, 140),
    ];
    let table = table(app.overview.registries.iter().map(row), &columns, area);
    frame.render_stateful_widget(table, area, &mut app.selected);
}

fn state(state: &str) -> Span<'static> {
    let color = match state {
        "running" => Color::Green,
        "starting" => Color::Blue,
        "restarting" => Color::Yellow,
        _ => Color::DarkGray,
    };
    Span::from(clean(state)).fg(color)
}

/// Messages per second, from two readings.
fn speed(app: &App, row: &Listed) -> Option<f64> {
    let before = app.before.rows.iter().find(|before| before.worker == row.worker)?;
    let passed = app.page.now.checked_sub(app.before.now).filter(|passed| *passed > 0)?;
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let speed = row.handled.saturating_sub(before.handled) as f64 * 1_000.0 / passed as f64;
    Some(speed)
}

fn workers(frame: &mut Frame, app: &mut App, list: &List, area: Rect) {
    if app.page.rows.is_empty() {
        let why = match (list.offset, list.filter.is_empty()) {
            (0, true) => "No workers",
            (0, false) => "No key matches",
            _ => "Nothing is left on this page",
        };
        return nothing(frame, why, area);
    }
    let row = |row: &Listed| {
        let last = row
            .busy
            .map_or_else(|| right(duration(row.idle)), |busy| right(format!("busy {}", duration(Some(busy))).yellow()));
        vec![
            Cell::from(clean(&row.key)),
            Cell::from(state(&row.state)),
            right(duration(row.age)),
            Cell::from(queue(row, 10)),
            right(short(row.handled)),
            right(speed(app, row).map_or_else(|| "-".to_owned(), rate)),
            right(row.restarts.to_string()),
            last,
        ]
    };
    let columns = [
        ("KEY", 0, 0),
        ("STATE", 10, 0),
        ("AGE", 7, 90),
        ("QUEUE", 20, 0),
        ("HANDLED", 7, 110),
        ("/s", 6, 0),
        ("RESTARTS", 8, 100),
        ("IDLE", 10, 0),
    ];
    let table = table(app.page.rows.iter().map(row), &columns, area);
    frame.render_stateful_widget(table, area, &mut app.selected);
}

fn queue(row: &Listed, width: usize) -> Line<'static> {
    let color = match row.queued * 10 / row.capacity.max(1) {
        0..5 => Color::Green,
        5..9 => Color::Yellow,
        _ => Color::Red,
    };
    Line::from(vec![
        meter(row.queued, row.capacity, width).fg(color),
        format!(" {}/{}", row.queued, row.capacity).into(),
    ])
}

fn worker(frame: &mut Frame, app: &App, registry: u64, key: &str, area: Rect) {
    let events: Vec<&Event> = match &app.worker {
        Some(worker) => worker.events.iter().collect(),
        None => app
            .events
            .iter()
            .rev()
            .filter(|event| event.registry == registry && event.key.as_deref() == Some(key))
            .collect(),
    };
    let Some(worker) = &app.worker else {
        let [top, bottom] = Layout::vertical([Constraint::Length(3), Constraint::Fill(1)]).areas(area);
        nothing(frame, "No worker of this key runs", top);
        frame.render_widget(Paragraph::new(events.into_iter().map(event_line).collect::<Vec<_>>()), bottom);
        return;
    };
    let facts = facts(worker);
    let height = u16::try_from(facts.len()).unwrap_or(u16::MAX) + 2;
    let [top, middle, bottom] =
        Layout::vertical([Constraint::Length(height), Constraint::Length(3), Constraint::Fill(1)]).areas(area);
    frame.render_widget(Paragraph::new(facts).wrap(Wrap { trim: false }).block(block("worker")), top);
    let width = usize::from(middle.width).saturating_sub(44).min(120);
    let mut line = queue(&worker.row, 24);
    line.push_span("   ");
    line.push_span(bars(&app.mailbox, width).cyan());
    frame.render_widget(Paragraph::new(line).block(block("mailbox, two minutes")), middle);
    let events: Vec<_> =
        if events.is_empty() { vec![Line::from("none".dim())] } else { events.into_iter().map(event_line).collect() };
    frame.render_widget(Paragraph::new(events).block(block("events of this key")), bottom);
}

fn block(name: &str) -> Block<'_> {
    Block::bordered().title(format!(" {name} ")).border_style(Style::new().dim()).padding(Padding::horizontal(1))
}

fn facts(worker: &Worker) -> Vec<Line<'static>> {
    let row = &worker.row;
    let at_rest =
        row.busy.map_or_else(|| ("idle for", duration(row.idle)), |busy| ("message in hand for", duration(Some(busy))));
    let crash = worker.crash.as_ref().map_or_else(
        || "none".to_owned(),
        |crash| {
            let ago = crash.at.map(|at| format!(", {} ago", duration(Some(worker.now.saturating_sub(at)))));
            clean(&crash.reason) + &ago.unwrap_or_default()
        },
    );
    let children: Vec<_> =
        worker.children.iter().map(|child| format!("{} ({} workers)", clean(&child.name), child.workers)).collect();
    let budget = worker.budget.map(|budget| {
        let used = budget.used.map_or_else(|| "?".to_owned(), |used| used.to_string());
        format!("{used} used of {}", budget.allowed)
    });
    let facts = [
        ("state", Some(row.state.clone())),
        ("run", Some(row.incarnation.to_string())),
        ("age", Some(duration(row.age))),
        (at_rest.0, Some(at_rest.1)),
        ("handled", Some(row.handled.to_string())),
        ("undelivered", worker.undelivered.map(|count| count.to_string())),
        ("restarts", Some(row.restarts.to_string())),
        ("restart budget", budget),
        ("last crash", Some(crash)),
        ("labels", Some(clean(&worker.labels.join(", "))).filter(|labels| !labels.is_empty())),
        ("owns", Some(children.join(", ")).filter(|children| !children.is_empty())),
        ("reference", Some(clean(&row.worker))),
    ];
    let line = |(name, value): (&str, Option<String>)| {
        let value = value?;
        let value = if name == "state" { state(&value) } else { value.into() };
        Some(Line::from(vec![format!("{name:20}").dim(), value]))
    };
    facts.into_iter().filter_map(line).collect()
}

fn event_line(event: &Event) -> Line<'static> {
    Line::from(vec![clock(event.at).dim(), "  ".into(), kind(event), "  ".into(), clean(&event.detail).into()])
}

fn kind(event: &Event) -> Span<'static> {
    let color = match event.level.as_str() {
        "crash" => Color::Red,
        "warning" => Color::Yellow,
        _ => Color::Blue,
    };
    format!("{:13}", clean(&event.kind.replace('_', " "))).fg(color)
}

fn events(frame: &mut Frame, app: &mut App, area: Rect) {
    if app.events.is_empty() {
        return nothing(frame, "No events", area);
    }
    let row = |event: &Event| {
        vec![
            Cell::from(clock(event.at).dim()),
            Cell::from(kind(event)),
            Cell::from(clean(&event.name)),
            Cell::from(clean(event.key.as_deref().unwrap_or_default())),
            Cell::from(clean(&event.detail)),
        ]
    };
    let columns = [("UTC", 8, 0), ("KIND", 13, 0), ("OF", 16, 100), ("KEY", 24, 0), ("WHAT", 0, 0)];
    let table = table(app.events.iter().rev().map(row), &columns, area);
    frame.render_stateful_widget(table, area, &mut app.selected);
}

fn nothing(frame: &mut Frame, why: &str, area: Rect) {
    frame.render_widget(
        Paragraph::new(why.to_owned().dim()).centered().block(Block::new().padding(Padding::top(1))),
        area,
    );
}

fn help(frame: &mut Frame) {
    let lines: Vec<_> =
        HELP.iter().map(|(keys, what)| Line::from(vec![format!("{keys:14}").bold(), (*what).into()])).collect();
    let area = frame.area();
    let (width, height) = (62.min(area.width), (u16::try_from(lines.len()).unwrap_or(u16::MAX) + 2).min(area.height));
    let at = Rect::new((area.width - width) / 2, (area.height - height) / 2, width, height);
    frame.render_widget(Clear, at);
    frame.render_widget(
        Paragraph::new(lines).block(Block::bordered().title(" keys ").padding(Padding::horizontal(1))),
        at,
    );
}

#[cfg(test)]
mod tests;

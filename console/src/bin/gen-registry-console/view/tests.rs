//! Screens, drawn into memory.

use gen_registry_console::json::{Event, Feed, Overview, Page, Rates, Registry, Row, Worker, Workers};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::draw;
use crate::app::{Answer, App, Question};

fn overview() -> Overview {
    let registry = |id, name: &str, running| Registry {
        id,
        name: name.to_owned(),
        workers: Workers { running, ..Workers::default() },
        rates: Rates { handled: 12.5, undelivered: 2.0, ..Rates::default() },
        ..Registry::default()
    };
    Overview {
        version: 1,
        registries: vec![registry(1, "phones", 12_345), registry(2, "tenants", 4)],
        ..Overview::default()
    }
}

fn row(key: &str, queued: usize) -> Row {
    let worker = format!("{key}-00");
    Row {
        key: key.to_owned(),
        worker,
        state: "running".to_owned(),
        queued,
        capacity: 8,
        handled: 5,
        idle: Some(1_200),
        ..Row::default()
    }
}

fn app() -> App {
    App::new(overview())
}

fn press(app: &mut App, code: KeyCode) -> bool {
    app.press(KeyEvent::new(code, KeyModifiers::NONE))
}

/// Answers what the app asks.
fn answer(app: &mut App, page: Option<Page>, worker: Option<Worker>, events: Vec<Event>) {
    let Question { screen, .. } = app.question();
    let feed = Feed { latest: events.len() as u64, events, ..Feed::default() };
    assert!(!app.take(Ok(Answer { overview: overview(), feed, screen, page, worker })));
}

fn shown(app: &mut App, width: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, 24)).expect("memory");
    terminal.draw(|frame| draw(frame, app)).expect("it is drawn");
    terminal.backend().to_string()
}

#[test]
fn registries_have_their_figures() {
    let mut app = app();
    let screen = shown(&mut app, 120);
    let phones = screen.lines().find(|line| line.contains("phones")).expect("a row");
    assert!(phones.contains("12.3k") && phones.contains("12.5"), "{phones}");
    // A narrow terminal has fewer columns, and the whole name.
    let narrow = shown(&mut app, 80);
    assert!(!narrow.contains("LIMIT") && narrow.contains("tenants") && narrow.contains("LOST/s"), "{narrow}");
}

#[test]
fn list_is_opened_sorted_filtered_and_left() {
    let mut app = app();
    press(&mut app, KeyCode::Down);
    assert!(press(&mut app, KeyCode::Enter), "a new screen asks at once");
    answer(
        &mut app,
        Some(Page { matched: 2, total: 2, complete: true, rows: vec![row("a", 0), row("b", 8)], ..Page::default() }),
        None,
        vec![],
    );
    let screen = shown(&mut app, 120);
    assert!(screen.contains("tenants  1-2 of 2") && screen.contains("██████████ 8/8"), "{screen}");

    assert!(press(&mut app, KeyCode::Char('s')));
    for key in ['/', 'x', '&', 'ä'] {
        press(&mut app, KeyCode::Char(key));
    }
    let crate::app::Screen::Workers(list) = &app.screen else { panic!("{:?}", app.screen) };
    assert_eq!(list.parameters(), "sort=queued&order=descending&limit=100&offset=0&filter=x%26%C3%A4");
    assert!(shown(&mut app, 120).contains("/x&ä"));
    press(&mut app, KeyCode::Enter);
    // A letter is a key again, and the first step back clears the filter.
    press(&mut app, KeyCode::Esc);
    let crate::app::Screen::Workers(list) = &app.screen else { panic!("{:?}", app.screen) };
    assert_eq!(list.filter, "");
    press(&mut app, KeyCode::Esc);
    assert_eq!(app.screen, crate::app::Screen::Registries);
}

#[test]
fn worker_has_its_facts_or_says_that_none_runs() {
    let mut app = app();
    press(&mut app, KeyCode::Enter);
    answer(&mut app, Some(Page { rows: vec![row("a\u{1b}[31m", 3)], ..Page::default() }), None, vec![]);
    press(&mut app, KeyCode::Enter);
    let worker = Worker { row: row("a", 3), labels: vec!["lobby".to_owned()], ..Worker::default() };
    answer(&mut app, None, Some(worker), vec![]);
    let screen = shown(&mut app, 120);
    assert!(
        screen.contains("lobby") && screen.contains("3/8") && screen.contains("phones › a\u{fffd}[31m"),
        "{screen}"
    );
    answer(&mut app, None, None, vec![]);
    assert!(shown(&mut app, 120).contains("No worker of this key runs"));
}

#[test]
fn speed_is_the_difference_of_two_pages() {
    let mut app = app();
    press(&mut app, KeyCode::Enter);
    let page = |now, handled| Page { now, rows: vec![Row { handled, ..row("a", 0) }], ..Page::default() };
    answer(&mut app, Some(page(1_000, 100)), None, vec![]);
    answer(&mut app, Some(page(3_000, 185)), None, vec![]);
    let screen = shown(&mut app, 120);
    assert!(screen.lines().any(|line| line.contains("185    42.5")), "{screen}");
}

#[test]
fn events_begin_anew_with_another_process() {
    let mut app = app();
    press(&mut app, KeyCode::Char('e'));
    let event = |detail: &str| Event {
        detail: detail.to_owned(),
        level: "crash".to_owned(),
        kind: "gave_up".to_owned(),
        ..Event::default()
    };
    answer(&mut app, None, None, vec![event("first"), event("second")]);
    let screen = shown(&mut app, 120);
    assert!(screen.find("second") < screen.find("first") && screen.contains("gave up"), "{screen}");
    answer(&mut app, None, None, vec![event("third")]);
    let screen = shown(&mut app, 120);
    assert!(screen.contains("third") && !screen.contains("first"), "{screen}");
}

#[test]
fn answer_for_another_screen_is_asked_again() {
    let mut app = app();
    let before = app.question().screen;
    press(&mut app, KeyCode::Enter);
    let late = Answer { overview: overview(), feed: Feed::default(), screen: before, page: None, worker: None };
    assert!(app.take(Ok(late)));
    assert!(!app.take(Err("the service does not answer.".to_owned())));
    assert!(shown(&mut app, 120).contains("does not answer. Trying again."));
}

#[test]
fn help_and_the_end_have_keys() {
    let mut app = app();
    press(&mut app, KeyCode::Char('?'));
    assert!(shown(&mut app, 80).contains("search in keys"));
    press(&mut app, KeyCode::Char('q'));
    assert!(!app.is_done(), "the first key closes the help");
    press(&mut app, KeyCode::Char('q'));
    assert!(app.is_done());
}

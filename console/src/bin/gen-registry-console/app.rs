//! [`App`]: which screen is shown, and what keys and answers do to it.

use std::fmt::Write;

use gen_registry_console::json::{Event, Feed, Overview, Page, Worker};
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::widgets::TableState;

/// Events that are kept.
const MOST_EVENTS: usize = 500;
/// Points of the mailbox of one worker: one a second.
const MOST_POINTS: usize = 120;
/// Rows of a page of workers.
const ROWS: usize = 100;

/// The columns that order a list, and whether the greatest value comes first at first.
pub(crate) const SORTS: [(&str, bool); 7] = [
    ("key", false),
    ("queued", true),
    ("busy_for", true),
    ("handled", true),
    ("restarts", true),
    ("age", true),
    ("idle_for", true),
];

/// What is shown.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Screen {
    Registries,
    Workers(List),
    Worker { registry: u64, worker: String, key: String, from: List },
    Events,
}

/// Which workers of a registry are shown.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct List {
    pub(crate) registry: u64,
    pub(crate) name: String,
    pub(crate) filter: String,
    pub(crate) sort: usize,
    pub(crate) is_descending: bool,
    pub(crate) offset: usize,
}

impl List {
    fn of(registry: u64, name: String) -> Self {
        Self { registry, name, filter: String::new(), sort: 0, is_descending: false, offset: 0 }
    }

    pub(crate) fn parameters(&self) -> String {
        let order = if self.is_descending { "descending" } else { "ascending" };
        let mut filter = String::new();
        for byte in self.filter.bytes() {
            // Writing to a string does not fail.
            let _ = if byte.is_ascii_alphanumeric() {
                write!(filter, "{}", char::from(byte))
            } else {
                write!(filter, "%{byte:02X}")
            };
        }
        format!("sort={}&order={order}&limit={ROWS}&offset={}&filter={filter}", SORTS[self.sort].0, self.offset)
    }
}

/// What to ask the service for.
#[derive(Debug, Clone)]
pub(crate) struct Question {
    pub(crate) screen: Screen,
    /// The last event that is known.
    pub(crate) after: u64,
}

/// What the service has answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) overview: Overview,
    pub(crate) feed: Feed,
    /// The screen that it was asked for.
    pub(crate) screen: Screen,
    pub(crate) page: Option<Page>,
    pub(crate) worker: Option<Worker>,
}

/// What is shown, and how.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) screen: Screen,
    pub(crate) overview: Overview,
    pub(crate) page: Page,
    /// The page before, from which the speeds of workers are derived.
    pub(crate) before: Page,
    pub(crate) worker: Option<Worker>,
    /// What waited in the mailbox of the worker, each second.
    pub(crate) mailbox: Vec<f64>,
    pub(crate) events: Vec<Event>,
    latest: u64,
    pub(crate) selected: TableState,
    /// The filter is being typed.
    pub(crate) is_typing: bool,
    pub(crate) has_help: bool,
    /// Why the last question has no answer.
    pub(crate) problem: Option<String>,
    is_done: bool,
}

impl App {
    pub(crate) fn new(overview: Overview) -> Self {
        Self {
            screen: Screen::Registries,
            overview,
            page: Page::default(),
            before: Page::default(),
            worker: None,
            mailbox: Vec::new(),
            events: Vec::new(),
            latest: 0,
            selected: TableState::default().with_selected(0),
            is_typing: false,
            has_help: false,
            problem: None,
            is_done: false,
        }
    }

    pub(crate) fn is_done(&self) -> bool {
        self.is_done
    }

    pub(crate) fn question(&self) -> Question {
        Question { screen: self.screen.clone(), after: self.latest }
    }

    /// Takes an answer, and returns whether to ask again at once: the screen has changed since the question.
    pub(crate) fn take(&mut self, answered: Result<Answer, String>) -> bool {
        let answer = match answered {
            Ok(answer) => answer,
            Err(problem) => {
                self.problem = Some(problem);
                return false;
            }
        };
        self.problem = None;
        self.overview = answer.overview;
        if answer.feed.latest < self.latest {
            // Another process answers, with a sequence of its own.
            self.events.clear();
        }
        self.latest = answer.feed.latest;
        self.events.extend(answer.feed.events);
        self.events.drain(..self.events.len().saturating_sub(MOST_EVENTS));
        if answer.screen != self.screen {
            return true;
        }
        if let Some(page) = answer.page {
            self.before = std::mem::replace(&mut self.page, page);
        }
        if matches!(self.screen, Screen::Worker { .. }) {
            if let Some(worker) = &answer.worker {
                #[expect(clippy::cast_precision_loss, reason = "a mailbox holds less than 2^52 messages")]
                self.mailbox.push(worker.row.queued as f64);
                self.mailbox.drain(..self.mailbox.len().saturating_sub(MOST_POINTS));
            }
            self.worker = answer.worker;
        }
        false
    }

    /// Rows that can be selected.
    pub(crate) fn rows(&self) -> usize {
        match self.screen {
            Screen::Registries => self.overview.registries.len(),
            Screen::Workers(_) => self.page.rows.len(),
            Screen::Worker { .. } => 0,
            Screen::Events => self.events.len(),
        }
    }

    /// Does what a key means, and returns whether to ask the service at once.
    pub(crate) fn press(&mut self, key: KeyEvent) -> bool {
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            self.is_done |= key.code == KeyCode::Char('c');
            return false;
        }
        if self.has_help {
            self.has_help = false;
            return false;
        }
        if self.is_typing {
            return self.type_filter(key.code);
        }
        match key.code {
            KeyCode::Char('q') => self.is_done = true,
            KeyCode::Char('?') => self.has_help = true,
            KeyCode::Down | KeyCode::Char('j') => self.select(|at| at + 1),
            KeyCode::Up | KeyCode::Char('k') => self.select(|at| at.saturating_sub(1)),
            KeyCode::PageDown => self.select(|at| at + 20),
            KeyCode::PageUp => self.select(|at| at.saturating_sub(20)),
            KeyCode::Home | KeyCode::Char('g') => self.select(|_| 0),
            KeyCode::End | KeyCode::Char('G') => self.select(|_| usize::MAX),
            KeyCode::Char('e') => return self.show(Screen::Events),
            KeyCode::Char('a') => return self.show(Screen::Registries),
            KeyCode::Enter | KeyCode::Right => return self.open(),
            KeyCode::Esc | KeyCode::Backspace | KeyCode::Left => return self.back(),
            code => return self.press_in_list(code),
        }
        false
    }

    fn press_in_list(&mut self, code: KeyCode) -> bool {
        let (next, rows) = (self.page.next, ROWS);
        let Screen::Workers(list) = &mut self.screen else { return false };
        match code {
            KeyCode::Char('/') => {
                self.is_typing = true;
                return false;
            }
            KeyCode::Char('s') => {
                list.sort = (list.sort + 1) % SORTS.len();
                list.is_descending = SORTS[list.sort].1;
                list.offset = 0;
            }
            KeyCode::Char('S') => {
                list.sort = (list.sort + SORTS.len() - 1) % SORTS.len();
                list.is_descending = SORTS[list.sort].1;
                list.offset = 0;
            }
            KeyCode::Char('r') => {
                list.is_descending = !list.is_descending;
                list.offset = 0;
            }
            KeyCode::Char('n') if next.is_some() => list.offset = next.unwrap_or_default(),
            KeyCode::Char('p') => list.offset = list.offset.saturating_sub(rows),
            _ => return false,
        }
        self.selected.select(Some(0));
        true
    }

    fn type_filter(&mut self, code: KeyCode) -> bool {
        let Screen::Workers(list) = &mut self.screen else { return false };
        match code {
            KeyCode::Enter => self.is_typing = false,
            KeyCode::Esc => {
                self.is_typing = false;
                list.filter.clear();
            }
            KeyCode::Backspace => drop(list.filter.pop()),
            KeyCode::Char(c) if list.filter.len() < 200 => list.filter.push(c),
            _ => return false,
        }
        list.offset = 0;
        self.selected.select(Some(0));
        true
    }

    fn select(&mut self, to: impl FnOnce(usize) -> usize) {
        let last = self.rows().saturating_sub(1);
        let at = to(self.selected.selected().unwrap_or_default()).min(last);
        self.selected.select(Some(at));
    }

    fn show(&mut self, screen: Screen) -> bool {
        if let Screen::Workers(list) = &screen {
            let is_same = matches!(&self.screen, Screen::Worker { from, .. } if from == list);
            if !is_same {
                self.page = Page::default();
                self.before = Page::default();
            }
        }
        self.worker = None;
        self.mailbox.clear();
        self.screen = screen;
        self.selected.select(Some(0));
        true
    }

    fn open(&mut self) -> bool {
        let at = self.selected.selected().unwrap_or_default();
        let screen = match &self.screen {
            Screen::Registries => self
                .overview
                .registries
                .get(at)
                .map(|registry| Screen::Workers(List::of(registry.id, registry.name.clone()))),
            Screen::Workers(list) => self.page.rows.get(at).map(|row| Screen::Worker {
                registry: list.registry,
                worker: row.worker.clone(),
                key: row.key.clone(),
                from: list.clone(),
            }),
            // The newest event is the first.
            Screen::Events => self.events.iter().rev().nth(at).and_then(|event| {
                Some(Screen::Worker {
                    registry: event.registry,
                    worker: event.worker.clone()?,
                    key: event.key.clone()?,
                    from: List::of(event.registry, event.name.clone()),
                })
            }),
            Screen::Worker { .. } => None,
        };
        screen.is_some_and(|screen| self.show(screen))
    }

    fn back(&mut self) -> bool {
        match self.screen.clone() {
            Screen::Registries => false,
            Screen::Workers(list) if !list.filter.is_empty() => {
                self.show(Screen::Workers(List { filter: String::new(), offset: 0, ..list }))
            }
            Screen::Workers(_) | Screen::Events => self.show(Screen::Registries),
            Screen::Worker { from, .. } => self.show(Screen::Workers(from)),
        }
    }
}

//! [`Metric`]: the names, as data. Nothing here records anything.

/// What every name begins with.
pub const PREFIX: &str = "gen_registry_";

/// One family of time series.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Metric {
    /// The whole name, with the suffixes that Prometheus asks for.
    pub name: &'static str,
    /// How it is counted.
    pub kind: Kind,
    /// What tells its series apart.
    pub labels: &'static [Label],
    /// What is counted.
    pub unit: Unit,
    /// Whether every registry has it.
    pub presence: Presence,
    /// What it means, in one line: the text after `# HELP`.
    pub help: &'static str,
}

/// How a metric is counted.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Kind {
    /// Only grows, until the process ends.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts observations by size.
    Histogram {
        /// Upper bounds, ascending; the last one, infinity, is left out.
        buckets: &'static [f64],
    },
}

impl Kind {
    /// RestartState the word that stands after `# TYPE`.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram { .. } => "histogram",
        }
    }
}

/// One dimension of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Label {
    /// Its name.
    pub name: &'static str,
    /// What it may say.
    pub values: LabelValues,
}

/// The values that a label may have. There is no open set: a key is never a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum LabelValues {
    /// The name that the registry was built with. Two live registries never share one.
    RegistryName,
    /// These, and no others.
    OneOf(&'static [&'static str]),
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unit {
    /// Things: workers, messages, events.
    Count,
    /// Time, in seconds.
    Seconds,
}

impl Unit {
    /// RestartState the word that the table has for it.
    pub const fn name(self) -> &'static str {
        match self {
            Unit::Count => "count",
            Unit::Seconds => "seconds",
        }
    }
}

/// Whether every named registry exports a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Presence {
    /// From the start, every series, with 0.
    Always,
    /// Only where `max_workers` is set: a limit of 0 would say something else.
    WithLimit,
    /// Only where it was asked for, since it costs something for each message.
    OptIn,
}

const fn one_of(name: &'static str, values: &'static [&'static str]) -> Label {
    Label { name, values: LabelValues::OneOf(values) }
}

const REGISTRY: Label = Label { name: "registry", values: LabelValues::RegistryName };

/// From a worker that has nothing to load, to the default `init_timeout`.
pub const WORKER_START_DURATION_BUCKETS: &[f64] =
    &[0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// From a crash in the first message to a worker that is never idle. Fine where crash loops are (the default restart
/// intensity counts within 5 s) and where idle time-outs are.
pub const WORKER_LIFETIME_BUCKETS: &[f64] =
    &[0.01, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3_600.0, 14_400.0, 86_400.0, 604_800.0];

/// From a look into memory to a call to another service.
pub const HANDLE_DURATION_BUCKETS: &[f64] = &[
    0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0,
];

/// The registry's size.
pub const WORKERS: Metric = Metric {
    name: "gen_registry_workers",
    kind: Kind::Gauge,
    labels: &[REGISTRY, one_of("state", &["starting", "running", "restarting", "stopping"])],
    unit: Unit::Count,
    presence: Presence::Always,
    help: "Workers by state; the sum over the states is the registry's size.",
};

/// What the size may not exceed.
pub const WORKERS_LIMIT: Metric = Metric {
    name: "gen_registry_workers_limit",
    kind: Kind::Gauge,
    labels: &[REGISTRY],
    unit: Unit::Count,
    presence: Presence::WithLimit,
    help: "The most workers the registry takes, in all states together.",
};

/// Starts that came to an end, good or bad.
pub const WORKER_STARTS: Metric = Metric {
    name: "gen_registry_worker_starts_total",
    kind: Kind::Counter,
    labels: &[REGISTRY, one_of("outcome", &["ok", "error", "panic", "timeout", "cancelled", "rejected"])],
    unit: Unit::Count,
    presence: Presence::Always,
    help: "Starts by outcome: init was ok, failed, panicked, took too long or was stopped; rejected means it never ran.",
};

/// Starts that wait for their turn.
pub const WORKER_STARTS_WAITING: Metric = Metric {
    name: "gen_registry_worker_starts_waiting",
    kind: Kind::Gauge,
    labels: &[REGISTRY],
    unit: Unit::Count,
    presence: Presence::Always,
    help: "Starts that wait for one of the max_concurrent_starts permits; 0 if there is no such limit.",
};

/// Workers that ended for good.
pub const WORKER_EXITS: Metric = Metric {
    name: "gen_registry_worker_exits_total",
    kind: Kind::Counter,
    labels: &[
        REGISTRY,
        one_of(
            "reason",
            &["normal", "stopped", "idle", "evicted", "shutdown", "killed", "failed", "panicked", "crashed"],
        ),
    ],
    unit: Unit::Count,
    presence: Presence::Always,
    help: "Workers that ended for good, by reason; an end that was followed by a restart is a restart and no exit.",
};

/// Workers that came back after a crash.
pub const WORKER_RESTARTS: Metric = Metric {
    name: "gen_registry_worker_restarts_total",
    kind: Kind::Counter,
    labels: &[
        REGISTRY,
        one_of("reason", &["failed", "panicked", "crashed", "normal"]),
        one_of("by", &["registry", "caller"]),
    ],
    unit: Unit::Count,
    presence: Presence::Always,
    help: "Restarts by what ended the run before, and by who restarted: the registry's policy, or a caller who started \
           a key that is remembered as crashed.",
};

/// Keys that crashed too often.
pub const RESTART_LIMIT_REACHED: Metric = Metric {
    name: "gen_registry_restart_limit_reached_total",
    kind: Kind::Counter,
    labels: &[REGISTRY],
    unit: Unit::Count,
    presence: Presence::Always,
    help: "Times a key had spent its restart budget and was not restarted.",
};

/// Panics beside the workers' methods.
pub const WORKER_TASK_PANICS: Metric = Metric {
    name: "gen_registry_worker_task_panics_total",
    kind: Kind::Counter,
    labels: &[REGISTRY],
    unit: Unit::Count,
    presence: Presence::Always,
    help: "Panics in tasks of workers: spawned and blocking work, and the closures of intervals and monitors.",
};

/// Looks into the table.
pub const LOOKUPS: Metric = Metric {
    name: "gen_registry_lookups_total",
    kind: Kind::Counter,
    labels: &[REGISTRY, one_of("result", &["hit", "miss"])],
    unit: Unit::Count,
    presence: Presence::Always,
    help: "Lookups of a key, by whether a running worker was found.",
};

/// Messages that reached their handler.
pub const MESSAGES_HANDLED: Metric = Metric {
    name: "gen_registry_messages_handled_total",
    kind: Kind::Counter,
    labels: &[REGISTRY],
    unit: Unit::Count,
    presence: Presence::Always,
    help: "Messages whose handling began.",
};

/// Messages that did not.
pub const MESSAGES_UNDELIVERED: Metric = Metric {
    name: "gen_registry_messages_undelivered_total",
    kind: Kind::Counter,
    labels: &[REGISTRY, one_of("reason", &["closed", "full", "killed", "crashed", "deadline"])],
    unit: Unit::Count,
    presence: Presence::Always,
    help: "Messages whose handling never began, by reason: the worker was gone, its mailbox was full, it was killed, \
           it crashed, or its stop took too long.",
};

/// The whole backlog of the workers.
pub const MAILBOX_MESSAGES: Metric = Metric {
    name: "gen_registry_mailbox_messages",
    kind: Kind::Gauge,
    labels: &[REGISTRY],
    unit: Unit::Count,
    presence: Presence::Always,
    help: "Messages queued in all mailboxes; above 1,024 workers estimated from a sample.",
};

/// The backlog of the worker that is furthest behind.
pub const MAILBOX_DEPTH_MAX: Metric = Metric {
    name: "gen_registry_mailbox_depth_max",
    kind: Kind::Gauge,
    labels: &[REGISTRY],
    unit: Unit::Count,
    presence: Presence::Always,
    help: "Messages queued in the fullest mailbox; above 1,024 workers the fullest of a sample.",
};

/// What the depth may not exceed.
pub const MAILBOX_CAPACITY: Metric = Metric {
    name: "gen_registry_mailbox_capacity",
    kind: Kind::Gauge,
    labels: &[REGISTRY],
    unit: Unit::Count,
    presence: Presence::Always,
    help: "Messages that one mailbox holds.",
};

/// The backlog of the registry itself.
pub const OWNER_QUEUE_MESSAGES: Metric = Metric {
    name: "gen_registry_owner_queue_messages",
    kind: Kind::Gauge,
    labels: &[REGISTRY],
    unit: Unit::Count,
    presence: Presence::Always,
    help: "Requests of callers and notices of workers that wait for the registry's owner.",
};

/// How long callers wait for a worker that was not there.
pub const WORKER_START_DURATION: Metric = Metric {
    name: "gen_registry_worker_start_duration_seconds",
    kind: Kind::Histogram { buckets: WORKER_START_DURATION_BUCKETS },
    labels: &[REGISTRY],
    unit: Unit::Seconds,
    presence: Presence::Always,
    help: "Time from the request for a worker until it was ready.",
};

/// How old workers get.
pub const WORKER_LIFETIME: Metric = Metric {
    name: "gen_registry_worker_lifetime_seconds",
    kind: Kind::Histogram { buckets: WORKER_LIFETIME_BUCKETS },
    labels: &[REGISTRY],
    unit: Unit::Seconds,
    presence: Presence::Always,
    help: "Age of a run when it ended, whether or not a restart followed.",
};

/// How long messages take.
pub const HANDLE_DURATION: Metric = Metric {
    name: "gen_registry_handle_duration_seconds",
    kind: Kind::Histogram { buckets: HANDLE_DURATION_BUCKETS },
    labels: &[REGISTRY],
    unit: Unit::Seconds,
    presence: Presence::OptIn,
    help: "Time that the handling of one message took.",
};

/// Which release runs.
pub const BUILD_INFO: Metric = Metric {
    name: "gen_registry_build_info",
    kind: Kind::Gauge,
    labels: &[one_of("version", &[env!("CARGO_PKG_VERSION")])],
    unit: Unit::Count,
    presence: Presence::Always,
    help: "Always 1; the label says which release of gen-registry the process was built with.",
};

/// Every metric, in the order of the table.
pub const ALL: &[Metric] = &[
    WORKERS,
    WORKERS_LIMIT,
    WORKER_STARTS,
    WORKER_STARTS_WAITING,
    WORKER_EXITS,
    WORKER_RESTARTS,
    RESTART_LIMIT_REACHED,
    WORKER_TASK_PANICS,
    LOOKUPS,
    MESSAGES_HANDLED,
    MESSAGES_UNDELIVERED,
    MAILBOX_MESSAGES,
    MAILBOX_DEPTH_MAX,
    MAILBOX_CAPACITY,
    OWNER_QUEUE_MESSAGES,
    WORKER_START_DURATION,
    WORKER_LIFETIME,
    HANDLE_DURATION,
    BUILD_INFO,
];

//! [`Metric`]: the catalogue, as data.

/// The prefix of every name.
pub const PREFIX: &str = "gen_registry_";

/// One family of time series.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Metric {
    /// The full name, with the suffixes that Prometheus prescribes.
    pub name: &'static str,
    /// Its type.
    pub kind: Kind,
    /// The labels of its series.
    pub labels: &'static [Label],
    /// The unit of its values.
    pub unit: Unit,
    /// Which registries export it.
    pub presence: Presence,
    /// Its meaning, in one line: the text after `# HELP`.
    pub help: &'static str,
}

/// The type of a metric.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Kind {
    /// A total that only increases until the process ends.
    Counter,
    /// A value that goes up and down.
    Gauge,
    /// Counts of observations, by buckets.
    Histogram {
        /// The upper bounds in ascending order, without the last one, infinity.
        buckets: &'static [f64],
    },
}

impl Kind {
    /// Returns the word after `# TYPE`.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram { .. } => "histogram",
        }
    }
}

/// A label of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Label {
    /// Its name.
    pub name: &'static str,
    /// Its possible values.
    pub values: LabelValues,
}

/// The values that a label may have. The set is always bounded: a key is never a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum LabelValues {
    /// The name that the registry was built with. No two live registries of one recorder share a name.
    RegistryName,
    /// These, and no others.
    OneOf(&'static [&'static str]),
}

/// The unit of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unit {
    /// A number of workers, messages or events.
    Count,
    /// Time, in seconds.
    Seconds,
}

impl Unit {
    /// Returns the word that the table in the [module documentation](super) uses.
    pub const fn name(self) -> &'static str {
        match self {
            Unit::Count => "count",
            Unit::Seconds => "seconds",
        }
    }
}

/// Which named registries export a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Presence {
    /// All of them, from the start, every series with 0.
    Always,
    /// Those with `max_workers`. Without a limit the metric is absent, since a limit of 0 would mean something else.
    WithLimit,
    /// Those that request it, since it adds a cost to each message.
    OptIn,
}

const fn one_of(name: &'static str, values: &'static [&'static str]) -> Label {
    Label { name, values: LabelValues::OneOf(values) }
}

const REGISTRY: Label = Label { name: "registry", values: LabelValues::RegistryName };

/// From a worker with nothing to load to the default `init_timeout`.
pub const WORKER_START_DURATION_BUCKETS: &[f64] =
    &[0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// From a crash in the first message to a worker that is never idle. The buckets are narrow around crash loops (the
/// default restart intensity counts within 5 s) and around idle timeouts.
pub const WORKER_LIFETIME_BUCKETS: &[f64] =
    &[0.01, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3_600.0, 14_400.0, 86_400.0, 604_800.0];

/// From a read of memory to a call of another service.
pub const HANDLE_DURATION_BUCKETS: &[f64] = &[
    0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0,
];

/// The registry's size, by state.
pub const WORKERS: Metric = Metric {
    name: "gen_registry_workers",
    kind: Kind::Gauge,
    labels: &[REGISTRY, one_of("state", &["starting", "running", "restarting", "stopping"])],
    unit: Unit::Count,
    presence: Presence::Always,
    help: "Workers by state; the sum over the states is the registry's size.",
};

/// The limit of the size.
pub const WORKERS_LIMIT: Metric = Metric {
    name: "gen_registry_workers_limit",
    kind: Kind::Gauge,
    labels: &[REGISTRY],
    unit: Unit::Count,
    presence: Presence::WithLimit,
    help: "The most workers that the registry holds, in all states together.",
};

/// Completed starts, by outcome.
pub const WORKER_STARTS: Metric = Metric {
    name: "gen_registry_worker_starts_total",
    kind: Kind::Counter,
    labels: &[REGISTRY, one_of("outcome", &["ok", "error", "panic", "timeout", "cancelled", "rejected"])],
    unit: Unit::Count,
    presence: Presence::Always,
    help: "Starts by outcome: init was ok, failed, panicked, took too long or was stopped; rejected means it never \
           ran.",
};

/// Starts that wait for a permit.
pub const WORKER_STARTS_WAITING: Metric = Metric {
    name: "gen_registry_worker_starts_waiting",
    kind: Kind::Gauge,
    labels: &[REGISTRY],
    unit: Unit::Count,
    presence: Presence::Always,
    help: "Starts that wait for one of the max_concurrent_starts permits; 0 if there is no such limit.",
};

/// Workers that exited for good.
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
    help: "Workers that exited for good, by reason; the end of a run before a restart counts as a restart, not an \
           exit.",
};

/// Restarts, by reason and by what caused them.
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
    help: "Restarts by what ended the run before, and by what restarted it: the registry's policy, or a caller that \
           started a key that is remembered as crashed.",
};

/// Keys that spent their restart budget.
pub const RESTART_LIMIT_REACHED: Metric = Metric {
    name: "gen_registry_restart_limit_reached_total",
    kind: Kind::Counter,
    labels: &[REGISTRY],
    unit: Unit::Count,
    presence: Presence::Always,
    help: "Times that a key had spent its restart budget and was not restarted.",
};

/// Panics outside the workers' methods.
pub const WORKER_TASK_PANICS: Metric = Metric {
    name: "gen_registry_worker_task_panics_total",
    kind: Kind::Counter,
    labels: &[REGISTRY],
    unit: Unit::Count,
    presence: Presence::Always,
    help: "Panics in tasks of workers: spawned and blocking work, and the closures of intervals and monitors.",
};

/// Lookups of keys.
pub const LOOKUPS: Metric = Metric {
    name: "gen_registry_lookups_total",
    kind: Kind::Counter,
    labels: &[REGISTRY, one_of("result", &["hit", "miss"])],
    unit: Unit::Count,
    presence: Presence::Always,
    help: "Lookups of a key, by whether a running worker was found.",
};

/// Messages whose handling began.
pub const MESSAGES_HANDLED: Metric = Metric {
    name: "gen_registry_messages_handled_total",
    kind: Kind::Counter,
    labels: &[REGISTRY],
    unit: Unit::Count,
    presence: Presence::Always,
    help: "Messages whose handling began.",
};

/// Messages whose handling never began.
pub const MESSAGES_UNDELIVERED: Metric = Metric {
    name: "gen_registry_messages_undelivered_total",
    kind: Kind::Counter,
    labels: &[REGISTRY, one_of("reason", &["closed", "full", "killed", "crashed", "deadline"])],
    unit: Unit::Count,
    presence: Presence::Always,
    help: "Messages whose handling never began, by reason: the worker was stopping or had exited, its mailbox was \
           full, it was killed, it crashed, or its stop took too long.",
};

/// The backlog of all workers.
pub const MAILBOX_MESSAGES: Metric = Metric {
    name: "gen_registry_mailbox_messages",
    kind: Kind::Gauge,
    labels: &[REGISTRY],
    unit: Unit::Count,
    presence: Presence::Always,
    help: "Messages queued in all mailboxes; above 1,024 workers estimated from a sample.",
};

/// The longest backlog of one worker.
pub const MAILBOX_DEPTH_MAX: Metric = Metric {
    name: "gen_registry_mailbox_depth_max",
    kind: Kind::Gauge,
    labels: &[REGISTRY],
    unit: Unit::Count,
    presence: Presence::Always,
    help: "Messages queued in the fullest mailbox; above 1,024 workers the fullest of a sample.",
};

/// The limit of one backlog.
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

/// How long callers wait for a worker to start.
pub const WORKER_START_DURATION: Metric = Metric {
    name: "gen_registry_worker_start_duration_seconds",
    kind: Kind::Histogram { buckets: WORKER_START_DURATION_BUCKETS },
    labels: &[REGISTRY],
    unit: Unit::Seconds,
    presence: Presence::Always,
    help: "Time from the request for a worker until it was ready.",
};

/// How long runs last.
pub const WORKER_LIFETIME: Metric = Metric {
    name: "gen_registry_worker_lifetime_seconds",
    kind: Kind::Histogram { buckets: WORKER_LIFETIME_BUCKETS },
    labels: &[REGISTRY],
    unit: Unit::Seconds,
    presence: Presence::Always,
    help: "Age of a run when it ended, whether or not a restart followed.",
};

/// How long the handling of messages takes.
pub const HANDLE_DURATION: Metric = Metric {
    name: "gen_registry_handle_duration_seconds",
    kind: Kind::Histogram { buckets: HANDLE_DURATION_BUCKETS },
    labels: &[REGISTRY],
    unit: Unit::Seconds,
    presence: Presence::OptIn,
    help: "Time that the handling of one message took.",
};

/// The release of gen-registry.
pub const BUILD_INFO: Metric = Metric {
    name: "gen_registry_build_info",
    kind: Kind::Gauge,
    labels: &[one_of("version", &[env!("CARGO_PKG_VERSION")])],
    unit: Unit::Count,
    presence: Presence::Always,
    help: "Always 1; the label says which release of gen-registry the process was built with.",
};

/// All metrics, in the order of the table.
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

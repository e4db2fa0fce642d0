//! What counts as activity.

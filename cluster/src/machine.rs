//! The decisions of a node, as a pure machine: inputs go in, effects go out, and no clock, socket or task is in it.

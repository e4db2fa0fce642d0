//! Single decisions. What follows from many is in the [simulator](super::simulator).

mod records;

//! Single decisions. What follows from many is in the simulator.

mod bench;
mod engine;
mod fencing;
mod joining;
mod moving;
mod records;
mod wire;

//! A stop that gives the queue back.

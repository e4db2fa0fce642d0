//! Values whose `Drop` panics.

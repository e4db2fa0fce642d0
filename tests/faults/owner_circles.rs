//! Registries that would own each other in a circle.

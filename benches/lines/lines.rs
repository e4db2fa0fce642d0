//! Two programs, each with several libraries. The tests assert that all variants behave the same, and the script `count`
//! counts the lines of what differs.

//! Foreign code: each place where code that is not the library's runs.

mod hello;
mod outcomes;
mod support;

//! Every public future takes part in the cooperative budget.

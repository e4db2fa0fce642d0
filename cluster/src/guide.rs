//! From one node to three, guarantees, operation, and a comparison.

pub mod one_to_three {
    #![doc = include_str!("../guide/one_to_three.md")]
}

pub mod guarantees {
    #![doc = include_str!("../guide/guarantees.md")]
}

pub mod operation {
    #![doc = include_str!("../guide/operation.md")]
}

pub mod comparison {
    #![doc = include_str!("../guide/comparison.md")]
}

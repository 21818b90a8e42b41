//! Enums as tables: each value stands in one place, with all that is known of it.

/// Declares an enum from a table: a value, and the fields of the struct `facts` that belong to it. Makes `ALL`, in the order of the table,
/// and the private function `facts`.
#[macro_export]
macro_rules! table {
    (
        $(#[$meta:meta])*
        pub enum $name:ident with $facts:ident {
            $( $(#[$doc:meta])* $value:ident { $($field:ident: $fact:expr),* $(,)? } )*
        }
    ) => {
        $(#[$meta])*
        pub enum $name {
            $( $(#[$doc])* $value, )*
        }

        impl $name {
            /// Every value, in the order in which people see them.
            pub const ALL: [Self; [$(stringify!($value)),*].len()] = [$(Self::$value),*];

            const fn facts(self) -> $facts {
                match self {
                    $( Self::$value => $facts { $($field: $fact),* }, )*
                }
            }
        }
    };
}

//! Declares methods from tables of fields, and the enum of all of them.
//!
//! A field is `name: domain`, where a domain of the specification names both the Rust type and the methods
//! of `Decoder` and `Encoder` that read and write it.

/// The Rust type of a domain.
macro_rules! field_type {
    ($lt:lifetime bit) => { bool };
    ($lt:lifetime octet) => { u8 };
    ($lt:lifetime short) => { u16 };
    ($lt:lifetime long) => { u32 };
    ($lt:lifetime longlong) => { u64 };
    ($lt:lifetime shortstr) => { &$lt [u8] };
    ($lt:lifetime longstr) => { &$lt [u8] };
    ($lt:lifetime table) => { crate::table::Table<$lt> };
}

/// Declares the methods of a class: `Name<'a> = id "name" { field: domain, ... }`, without `'a` if nothing is
/// borrowed.
macro_rules! methods {
    ($lt:lifetime $class:literal $class_name:literal;
     $($(#[$meta:meta])* $name:ident<$($own:lifetime)?> = $id:literal $method_name:literal {
         $($(#[$field_meta:meta])* $field:ident: $domain:ident,)*
     })*) => {
        /// The number of this class.
        pub const CLASS: u16 = $class;

        $(
            $(#[$meta])*
            #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
            pub struct $name<$($own)?> {
                $($(#[$field_meta])* pub $field: field_type!($lt $domain),)*
            }

            impl<$lt> crate::method::WireMethod<$lt> for $name<$($own)?> {
                const ID: crate::method::MethodId = crate::method::MethodId { class: $class, method: $id };
                const NAME: &'static str = concat!($class_name, ".", $method_name);

                #[inline(always)]
                fn read(d: &mut crate::decode::Decoder<$lt>) -> Result<Self, crate::error::DecodeError> {
                    let _ = &d;
                    $(let $field = d.$domain()?;)*
                    Ok(Self { $($field),* })
                }

                #[inline(always)]
                fn write(&self, e: &mut crate::encode::Encoder<'_>) -> Result<(), crate::error::EncodeError> {
                    let _ = &e;
                    $(e.$domain(self.$field)?;)*
                    Ok(())
                }
            }
        )*
    };
}

/// Declares [`Method`](super::Method) from `Variant: struct` lines.
macro_rules! any_method {
    ($($variant:ident: $method:ty,)*) => {
        /// Any method.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[allow(missing_docs, reason = "each variant is documented by its struct")]
        pub enum Method<'a> {
            $($variant($method),)*
        }

        impl<'a> Method<'a> {
            /// Every method's ids and name.
            pub const NAMES: &'static [(MethodId, &'static str)] =
                &[$((<$method as WireMethod<'a>>::ID, <$method as WireMethod<'a>>::NAME)),*];

            /// Reads the payload of a method frame.
            ///
            /// # Errors
            /// [`DecodeError::UnknownMethod`], or those of the fields.
            #[inline]
            pub fn parse(payload: &'a [u8]) -> Result<Self, DecodeError> {
                let (id, fields) = split_id(payload)?;
                // One number, so that this becomes a jump rather than a walk.
                let key = id.key();
                $(if key == const { <$method as WireMethod<'_>>::ID.key() } {
                    return read_whole::<$method>(fields).map(Self::$variant);
                })*
                Err(DecodeError::UnknownMethod { id })
            }

            /// Its ids.
            pub const fn id(&self) -> MethodId {
                match self {
                    $(Self::$variant(_) => <$method as WireMethod<'a>>::ID,)*
                }
            }

            /// Its name in the specification, such as `queue.declare`.
            pub const fn name(&self) -> &'static str {
                match self {
                    $(Self::$variant(_) => <$method as WireMethod<'a>>::NAME,)*
                }
            }

            /// Writes the fields.
            pub(crate) fn write(&self, e: &mut Encoder<'_>) -> Result<(), EncodeError> {
                match self {
                    $(Self::$variant(method) => method.write(e),)*
                }
            }
        }

        $(impl<'a> From<$method> for Method<'a> {
            fn from(method: $method) -> Self {
                Self::$variant(method)
            }
        })*
    };
}

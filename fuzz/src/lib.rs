//! What the fuzz targets share: turning an input into a message that arrives in pieces, checking
//! written heads, and the second opinions of other implementations.

pub mod hyper_peer;
pub mod input;
pub mod pieces;
pub mod strict_peer;
pub mod wire;

/// The fields of a head in order, with names in lower case.
pub type FieldList = Vec<(String, Vec<u8>)>;

/// Groups fields by name and keeps the order within a name, which an implementation that stores
/// fields in a map preserves.
pub fn by_name(mut fields: FieldList) -> FieldList {
    fields.sort_by(|a, b| a.0.cmp(&b.0));
    fields
}

//! What the fuzz targets share: how an input becomes a message that arrives in pieces,
//! what a written head must look like, and the second opinions.

pub mod hyper_peer;
pub mod input;
pub mod pieces;
pub mod strict_peer;
pub mod wire;

/// The field names and values of a head, names in lower case, in order.
pub type FieldList = Vec<(String, Vec<u8>)>;

/// Groups fields by name and keeps the order within a name: what may not change on the
/// way through an implementation that keeps its fields in a map.
pub fn by_name(mut fields: FieldList) -> FieldList {
    fields.sort_by(|a, b| a.0.cmp(&b.0));
    fields
}

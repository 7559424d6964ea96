//! The OpenAPI v2 document, in the one encoding that `kubectl` asks for: protobuf. It reads it only for lists (`kind: List`) and
//! for kinds that no v3 document has, to learn whether PATCH of a Namespace takes `fieldValidation`; so that is all it says.
//! Field numbers are those of gnostic's `OpenAPIv2.proto`.

/// The only form that there is. Clients ask for `…v2@v1.0+protobuf`, which they could not parse as the type of an answer.
pub const MEDIA: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

pub fn document() -> Vec<u8> {
    let kind = "- group: \"\"\n  kind: Namespace\n  version: v1\n";
    let extension = [text(1, "x-kubernetes-group-version-kind"), field(2, &text(2, kind))].concat();
    let query = [text(2, "query"), text(4, "fieldValidation"), text(9, "string")].concat();
    let parameter = field(1, &field(2, &field(3, &query)));
    let patch = [text(5, "patchCoreV1Namespace"), field(8, &parameter), field(13, &extension)].concat();
    let path = [text(1, "/api/v1/namespaces/{name}"), field(2, &field(8, &patch))].concat();
    let info = [text(1, "Kubernetes"), text(2, "v1.33.0")].concat();
    [text(1, "2.0"), field(2, &info), field(8, &field(2, &path))].concat()
}

fn text(number: u8, text: &str) -> Vec<u8> {
    field(number, text.as_bytes())
}

/// A field of bytes: its tag, their length and they.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut written = vec![number << 3 | 2];
    let mut length = bytes.len();
    while length >= 0x80 {
        written.push(length.to_le_bytes()[0] | 0x80);
        length >>= 7;
    }
    written.push(length.to_le_bytes()[0]);
    written.extend_from_slice(bytes);
    written
}

//! The simple JSONPaths of definitions: plain fields, indices and quoted fields.

use serde_json::Value;

/// Follows a path such as `.spec.a`, `.status.list[0].b` or `.metadata.labels['x/y']`; null where there is nothing.
pub fn follow(object: &Value, path: &str) -> Value {
    let mut value = object;
    let mut rest = path.trim().trim_start_matches('$');
    while !rest.is_empty() {
        if let Some(inside) = rest.strip_prefix('[') {
            let Some((step, after)) = inside.split_once(']') else { return Value::Null };
            let step = step.trim_matches(['\'', '"']);
            value = match step.parse::<usize>() {
                Ok(at) if value.is_array() => &value[at],
                _ => &value[step],
            };
            rest = after;
        } else {
            rest = rest.trim_start_matches('.');
            let end = rest.find(['.', '[']).unwrap_or(rest.len());
            value = &value[&rest[..end]];
            rest = &rest[end..];
        }
    }
    value.clone()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn simple_paths_are_followed() {
        let object = json!({ "a": { "b": [{ "c": 1 }], "x/y": 2 } });
        assert_eq!(follow(&object, ".a.b[0].c"), json!(1));
        assert_eq!(follow(&object, ".a['x/y']"), json!(2));
        assert_eq!(follow(&object, ".a.none[3].z"), Value::Null);
        assert_eq!(follow(&object, ".a[é"), Value::Null);
    }
}

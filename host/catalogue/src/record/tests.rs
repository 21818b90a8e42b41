use super::*;

#[test]
fn an_id_is_written_in_exactly_one_way() {
    let id: SnapshotId = "20240229T235959Z".parse().unwrap();
    assert_eq!(id.to_string(), "20240229T235959Z");
    assert_eq!(id.taken().as_second(), 1_709_251_199);
    for text in [
        "",
        "20240229T235959",
        "20240229T235959z",
        "2024-02-29T23:59:59Z",
        "20230229T000000Z",
        "20240229T235960Z",
        " 20240229T235959Z",
        "20240229T235959Z ",
        "20240229T2359 9Z",
        "+20240229T235959Z",
    ] {
        assert!(text.parse::<SnapshotId>().is_err(), "{text:?} was parsed as an id");
    }
}

#[test]
fn an_id_drops_fractions_of_a_second() {
    let moment: Timestamp = "2026-06-30T01:00:00.999Z".parse().unwrap();
    assert_eq!(SnapshotId::at(moment).to_string(), "20260630T010000Z");
}

fn record() -> Record {
    Record {
        complete: true,
        time_zone: "Europe/Paris".into(),
        ..Record::blank("20260630T010000Z".parse().unwrap(), "prod")
    }
}

#[test]
fn a_record_is_read_back_as_it_was_written() {
    let record = record();
    assert_eq!(Record::parse(&record.to_bytes().unwrap(), "prod", record.id).unwrap(), record);
}

#[test]
fn a_record_with_another_key_a_newer_format_or_an_unknown_field_is_refused() {
    let good = record();
    let other: SnapshotId = "20260701T010000Z".parse().unwrap();
    let bytes = good.to_bytes().unwrap();
    assert!(Record::parse(&bytes, "prod", other).is_err());
    assert!(Record::parse(&bytes, "sandbox", good.id).is_err());
    assert!(Record::parse(&bytes[..bytes.len() / 2], "prod", good.id).is_err());
    let version = |number: u32| format!("\"format_version\": {number}");
    let text = String::from_utf8(bytes.clone()).unwrap();
    let newer = text.replace(&version(FORMAT_VERSION), &version(FORMAT_VERSION + 1));
    let error = Record::parse(newer.as_bytes(), "prod", good.id).unwrap_err();
    assert!(error.advice().unwrap().contains("newer version"), "{error:?}");
    let extra = String::from_utf8(bytes).unwrap().replace("\"complete\"", "\"surprise\": 1, \"complete\"");
    assert!(Record::parse(extra.as_bytes(), "prod", good.id).is_err());
    let array = parse_stored::<(u32, u32)>(b"[1, 2]", 1, |(version, _)| *version, String::new, Error::unexpected);
    assert!(array.is_err(), "a derived reader would take an array with all fields");
}

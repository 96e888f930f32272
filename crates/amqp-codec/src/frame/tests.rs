//! Cutting a stream: whole frames, parts of them, and what is refused.

use super::*;

fn frame(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    let size = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&[kind], &channel.to_be_bytes()[..], &size, payload, &[FRAME_END]].concat()
}

#[track_caller]
fn check_error(input: &[u8], expected: DecodeError) {
    assert_eq!(FrameReader::new(4096).peek(input), Err(expected));
    let mut buffer = BytesMut::from(input);
    assert_eq!(FrameReader::new(4096).next(&mut buffer), Err(expected));
    assert_eq!(&buffer[..], input, "an error takes nothing");
}

#[test]
fn frames_are_cut_where_they_end() {
    let stream = [frame(1, 7, b"method"), frame(8, 0, b""), frame(3, 65535, b"body")].concat();
    let mut buffer = BytesMut::from(&stream[..]);
    let reader = FrameReader::new(131_072);
    let first = reader.peek(&buffer).unwrap().unwrap();
    assert_eq!(first, FrameRef { kind: FrameKind::Method, channel: 7, payload: b"method" });
    assert_eq!(first.wire_bytes(), 14);
    let address = buffer[FRAME_HEAD_BYTES..].as_ptr();
    let first = reader.next(&mut buffer).unwrap().unwrap();
    assert_eq!((first.kind, first.channel, &first.payload[..]), (FrameKind::Method, 7, &b"method"[..]));
    assert_eq!(first.payload.as_ptr(), address, "a payload is no copy");
    assert_eq!(reader.next(&mut buffer).unwrap().unwrap().kind, FrameKind::Heartbeat);
    let last = reader.next(&mut buffer).unwrap().unwrap();
    assert_eq!((last.kind, last.channel, &last.payload[..]), (FrameKind::Body, 65535, &b"body"[..]));
    assert_eq!(reader.next(&mut buffer), Ok(None));
    assert_eq!(HEARTBEAT[..], frame(8, 0, b""));
}

#[test]
fn a_part_of_a_frame_is_none_and_says_what_is_missing() {
    let whole = frame(2, 1, b"0123456789");
    let reader = FrameReader::new(4096);
    for len in 0..whole.len() {
        assert_eq!(reader.peek(&whole[..len]), Ok(None));
        let known = if len < FRAME_HEAD_BYTES { FRAME_OVERHEAD_BYTES } else { whole.len() };
        assert_eq!(reader.missing_bytes(&whole[..len]), known - len);
    }
    assert_eq!(reader.missing_bytes(&whole), 0);
    assert_eq!(reader.missing_bytes(&[3, 0, 1, 0xff, 0xff, 0xff, 0xff]), 4096 + 8 - 7);
}

#[test]
fn a_frame_is_as_large_as_agreed_and_a_little() {
    let agreed = frame(3, 1, &[0; 4096 - 8]);
    let tolerated = frame(3, 1, &[0; 4096]);
    let reader = FrameReader::new(4096);
    assert!(reader.peek(&agreed).unwrap().is_some());
    assert!(reader.peek(&tolerated).unwrap().is_some());
    let too_large = DecodeError::FrameTooLarge { kind: 3, size_bytes: 4097, size_bytes_max: 4088 };
    check_error(&[3, 0, 1, 0, 0, 16, 1], too_large);
    check_error(&frame(3, 1, &[0; 4097]), too_large);
    assert_eq!(FrameReader::new(0).peek(&[3, 0, 1, 0xff, 0xff, 0xff, 0xff]), Ok(None), "0 is no limit");
    assert_eq!(FrameReader::new(1).frame_max(), 4096);
    assert_eq!(FrameReader::new(131_072).frame_max(), 131_072);
    assert_eq!(FrameReader::new(0).frame_max(), u32::MAX);
}

#[test]
fn what_is_no_frame_is_refused() {
    let mut wrong_end = frame(1, 1, b"0123456789abcdefghi");
    *wrong_end.last_mut().unwrap() = 0;
    let payload = Snippet::of(b"0123456789abcdefghi");
    check_error(&wrong_end, DecodeError::FrameEnd { kind: 1, octet: 0, payload });
    let payload = Snippet::of(b"");
    for kind in [0, 4, 7, 9, 22, 255] {
        // At the first byte, whatever follows.
        check_error(&[kind], DecodeError::UnknownFrame { kind, payload });
        check_error(&frame(kind, 1, b"abc"), DecodeError::UnknownFrame { kind, payload });
    }
    check_error(&frame(8, 1, b""), DecodeError::UnexpectedFrame { kind: 8, payload });
    let payload = Snippet::of(b"x");
    check_error(&frame(8, 0, b"x"), DecodeError::UnknownFrame { kind: 8, payload });
}

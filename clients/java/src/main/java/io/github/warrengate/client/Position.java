package io.github.warrengate.client;

import com.google.protobuf.Timestamp;
import java.time.Instant;
import warrengate.v1.StreamFirst;
import warrengate.v1.StreamLast;
import warrengate.v1.StreamNext;
import warrengate.v1.StreamPosition;

/** Where a consumer begins in a stream queue. */
public final class Position {
  /** The oldest message kept. */
  public static final Position FIRST =
      new Position(StreamPosition.newBuilder().setFirst(StreamFirst.getDefaultInstance()).build());
  /** The last chunk of messages stored. */
  public static final Position LAST =
      new Position(StreamPosition.newBuilder().setLast(StreamLast.getDefaultInstance()).build());
  /** Only messages published from now on. */
  public static final Position NEXT =
      new Position(StreamPosition.newBuilder().setNext(StreamNext.getDefaultInstance()).build());

  final StreamPosition value;

  private Position(StreamPosition value) {
    this.value = value;
  }

  /**
   * The message with this offset.
   *
   * @param offset an offset
   * @return the position
   */
  public static Position offset(long offset) {
    return new Position(StreamPosition.newBuilder().setOffset(offset).build());
  }

  /**
   * The messages stored at about this time.
   *
   * @param moment a time; its fraction of a second is ignored
   * @return the position
   */
  public static Position since(Instant moment) {
    var timestamp = Timestamp.newBuilder().setSeconds(moment.getEpochSecond());
    return new Position(StreamPosition.newBuilder().setTimestamp(timestamp).build());
  }
}

package io.github.warrengate.client;

import com.google.protobuf.ByteString;
import com.google.protobuf.Timestamp;
import java.nio.ByteBuffer;
import java.time.Duration;
import java.time.Instant;
import java.util.ArrayList;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import warrengate.v1.Durability;
import warrengate.v1.NullValue;
import warrengate.v1.Value;
import warrengate.v1.ValueList;
import warrengate.v1.ValueTable;

/** A body and its properties. Instances are immutable. */
public final class Message {
  private final warrengate.v1.Message value;

  Message(warrengate.v1.Message value) {
    this.value = value;
  }

  /**
   * Makes a message of a text, in UTF-8.
   *
   * @param body the text
   * @return the message
   */
  public static Message text(String body) {
    return builder().body(body).build();
  }

  /**
   * Makes a message of bytes, which are copied.
   *
   * @param body the bytes
   * @return the message
   */
  public static Message bytes(byte[] body) {
    return builder().body(body).build();
  }

  /**
   * Makes an empty builder.
   *
   * @return the builder
   */
  public static Builder builder() {
    return new Builder(warrengate.v1.Message.newBuilder());
  }

  /**
   * Makes a builder that has everything of this message.
   *
   * @return the builder
   */
  public Builder toBuilder() {
    return new Builder(value.toBuilder());
  }

  /**
   * A copy of the body.
   *
   * @return the bytes
   */
  public byte[] body() {
    return value.getBody().toByteArray();
  }

  /**
   * The body without a copy.
   *
   * @return a read-only buffer
   */
  public ByteBuffer bodyBuffer() {
    return value.getBody().asReadOnlyByteBuffer();
  }

  /**
   * The body as a text in UTF-8.
   *
   * @return the text
   */
  public String text() {
    return value.getBody().toStringUtf8();
  }

  /**
   * The id, by which consumers recognise duplicates.
   *
   * @return the id; empty when it has none yet
   */
  public String id() {
    return value.getMessageId();
  }

  /**
   * The id that relates a reply to its request.
   *
   * @return the id; may be empty
   */
  public String correlationId() {
    return value.getCorrelationId();
  }

  /**
   * The queue to which a reply is to be sent.
   *
   * @return its name; may be empty
   */
  public String replyTo() {
    return value.getReplyTo();
  }

  /**
   * The MIME type of the body.
   *
   * @return the type; may be empty
   */
  public String contentType() {
    return value.getContentType();
  }

  /**
   * The encoding of the body, as in HTTP.
   *
   * @return the encoding; may be empty
   */
  public String contentEncoding() {
    return value.getContentEncoding();
  }

  /**
   * The type that the application has defined, such as "order.created".
   *
   * @return the type; may be empty
   */
  public String type() {
    return value.getType();
  }

  /**
   * The name of the publishing application.
   *
   * @return the name; may be empty
   */
  public String appId() {
    return value.getAppId();
  }

  /**
   * The priority.
   *
   * @return 0 to 255
   */
  public int priority() {
    return value.getPriority();
  }

  /**
   * How long the message may wait in a queue.
   *
   * @return the time, if there is a limit
   */
  public Optional<Duration> ttl() {
    return value.hasTtl() ? Optional.of(Times.duration(value.getTtl())) : Optional.empty();
  }

  /**
   * Whether the message may be lost when the broker restarts.
   *
   * @return true if it may
   */
  public boolean isTransient() {
    return value.getDurability() == Durability.DURABILITY_TRANSIENT;
  }

  /**
   * When the message was published.
   *
   * @return the time in whole seconds, if it is known
   */
  public Optional<Instant> publishTime() {
    return value.hasPublishTime() ? Optional.of(Times.instant(value.getPublishTime())) : Optional.empty();
  }

  /**
   * The headers. Values are null, {@link Boolean}, {@link String}, {@link Long}, {@link Double}, {@code byte[]},
   * {@link Instant}, {@link List} and {@link Map}.
   *
   * @return a map that cannot be changed
   */
  public Map<String, Object> headers() {
    return fromTable(value.getHeadersMap());
  }

  warrengate.v1.Message proto() {
    return value;
  }

  @Override
  public boolean equals(Object other) {
    return other instanceof Message message && message.value.equals(value);
  }

  @Override
  public int hashCode() {
    return value.hashCode();
  }

  /** The id and size of the message, never its contents. */
  @Override
  public String toString() {
    return "Message[id=" + id() + ", bytes=" + value.getBody().size() + "]";
  }

  /** Builds a message. */
  public static final class Builder {
    private final warrengate.v1.Message.Builder value;

    private Builder(warrengate.v1.Message.Builder value) {
      this.value = value;
    }

    /**
     * Sets the body to a text, in UTF-8.
     *
     * @param body the text
     * @return this
     */
    public Builder body(String body) {
      value.setBody(ByteString.copyFromUtf8(body));
      return this;
    }

    /**
     * Sets the body to a copy of these bytes.
     *
     * @param body the bytes
     * @return this
     */
    public Builder body(byte[] body) {
      value.setBody(ByteString.copyFrom(body));
      return this;
    }

    /**
     * Sets the id. The publisher makes one for a message without an id.
     *
     * @param id at most 255 bytes
     * @return this
     */
    public Builder id(String id) {
      value.setMessageId(id);
      return this;
    }

    /**
     * Sets the id that relates a reply to its request.
     *
     * @param id at most 255 bytes
     * @return this
     */
    public Builder correlationId(String id) {
      value.setCorrelationId(id);
      return this;
    }

    /**
     * Sets the queue to which a reply is to be sent.
     *
     * @param queue its name
     * @return this
     */
    public Builder replyTo(String queue) {
      value.setReplyTo(queue);
      return this;
    }

    /**
     * Sets the MIME type of the body.
     *
     * @param type the type
     * @return this
     */
    public Builder contentType(String type) {
      value.setContentType(type);
      return this;
    }

    /**
     * Sets the encoding of the body, as in HTTP.
     *
     * @param encoding the encoding
     * @return this
     */
    public Builder contentEncoding(String encoding) {
      value.setContentEncoding(encoding);
      return this;
    }

    /**
     * Sets the type that the application has defined.
     *
     * @param type such as "order.created"
     * @return this
     */
    public Builder type(String type) {
      value.setType(type);
      return this;
    }

    /**
     * Sets the name of the publishing application.
     *
     * @param name the name
     * @return this
     */
    public Builder appId(String name) {
      value.setAppId(name);
      return this;
    }

    /**
     * Sets the priority.
     *
     * @param priority 0 to 255
     * @return this
     */
    public Builder priority(int priority) {
      value.setPriority(priority);
      return this;
    }

    /**
     * Limits how long the message may wait in a queue.
     *
     * @param ttl the time, in whole milliseconds
     * @return this
     */
    public Builder ttl(Duration ttl) {
      value.setTtl(Times.proto(ttl));
      return this;
    }

    /**
     * Sets whether the message may be lost when the broker restarts.
     *
     * @param transientMessage whether it may
     * @return this
     */
    public Builder setTransient(boolean transientMessage) {
      value.setDurability(transientMessage ? Durability.DURABILITY_TRANSIENT : Durability.DURABILITY_UNSPECIFIED);
      return this;
    }

    /**
     * Sets when the message was published. Default: when the gateway received it.
     *
     * @param moment the time; its fraction of a second is ignored
     * @return this
     */
    public Builder publishTime(Instant moment) {
      value.setPublishTime(Timestamp.newBuilder().setSeconds(moment.getEpochSecond()));
      return this;
    }

    /**
     * Sets a header.
     *
     * @param name its name
     * @param header null, {@link Boolean}, {@link String}, {@link Integer}, {@link Long}, {@link Float},
     *     {@link Double}, {@code byte[]}, {@link Instant}, {@link List} or {@link Map}
     * @return this
     */
    public Builder header(String name, Object header) {
      try {
        value.putHeaders(name, toValue(header));
      } catch (IllegalArgumentException unsupported) {
        throw Errors.configuration("header \"" + name + "\": " + unsupported.getMessage());
      }
      return this;
    }

    /**
     * Sets headers.
     *
     * @param headers their names and values
     * @return this
     */
    public Builder headers(Map<String, ?> headers) {
      headers.forEach(this::header);
      return this;
    }

    /**
     * Makes the message.
     *
     * @return the message
     */
    public Message build() {
      return new Message(value.build());
    }
  }

  static Value toValue(Object header) {
    var result = Value.newBuilder();
    if (header == null) {
      result.setNullValue(NullValue.NULL_VALUE_UNSPECIFIED);
    } else if (header instanceof Boolean flag) {
      result.setBoolValue(flag);
    } else if (header instanceof String text) {
      result.setStringValue(text);
    } else if (header instanceof Integer || header instanceof Long || header instanceof Short || header instanceof Byte) {
      result.setIntValue(((Number) header).longValue());
    } else if (header instanceof Double || header instanceof Float) {
      result.setDoubleValue(((Number) header).doubleValue());
    } else if (header instanceof byte[] bytes) {
      result.setBytesValue(ByteString.copyFrom(bytes));
    } else if (header instanceof Instant moment) {
      result.setTimestampValue(Timestamp.newBuilder().setSeconds(moment.getEpochSecond()));
    } else if (header instanceof List<?> list) {
      var values = ValueList.newBuilder();
      list.forEach(item -> values.addValues(toValue(item)));
      result.setListValue(values);
    } else if (header instanceof Map<?, ?> table) {
      var entries = ValueTable.newBuilder();
      table.forEach((name, item) -> entries.putEntries(String.valueOf(name), toValue(item)));
      result.setTableValue(entries);
    } else {
      throw new IllegalArgumentException("a header cannot contain a " + header.getClass().getName());
    }
    return result.build();
  }

  private static Map<String, Object> fromTable(Map<String, Value> table) {
    var result = new LinkedHashMap<String, Object>();
    table.forEach((name, item) -> result.put(name, fromValue(item)));
    return Collections.unmodifiableMap(result);
  }

  private static Object fromValue(Value value) {
    return switch (value.getKindCase()) {
      case STRING_VALUE -> value.getStringValue();
      case INT_VALUE -> value.getIntValue();
      case DOUBLE_VALUE -> value.getDoubleValue();
      case BOOL_VALUE -> value.getBoolValue();
      case BYTES_VALUE -> value.getBytesValue().toByteArray();
      case TIMESTAMP_VALUE -> Times.instant(value.getTimestampValue());
      case LIST_VALUE -> {
        var list = new ArrayList<Object>();
        value.getListValue().getValuesList().forEach(item -> list.add(fromValue(item)));
        yield Collections.unmodifiableList(list);
      }
      case TABLE_VALUE -> fromTable(value.getTableValue().getEntriesMap());
      case NULL_VALUE, KIND_NOT_SET -> null;
    };
  }
}

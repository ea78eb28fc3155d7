package io.github.warrengate.client;

import java.util.Iterator;
import java.util.List;
import java.util.NoSuchElementException;
import java.util.function.Function;

/** A list that the gateway gives page by page; the next page is fetched when it is needed. */
final class Pages<T> implements Iterable<T> {
  record Page<T>(List<T> items, String next) {}

  private final Function<String, Page<T>> fetch;

  Pages(Function<String, Page<T>> fetch) {
    this.fetch = fetch;
  }

  @Override
  public Iterator<T> iterator() {
    return new Iterator<>() {
      private String token = "";
      private Iterator<T> items = List.<T>of().iterator();

      @Override
      public boolean hasNext() {
        while (!items.hasNext() && token != null) {
          var page = fetch.apply(token);
          items = page.items().iterator();
          token = page.next().isEmpty() ? null : page.next();
        }
        return items.hasNext();
      }

      @Override
      public T next() {
        if (!hasNext()) {
          throw new NoSuchElementException();
        }
        return items.next();
      }
    };
  }
}

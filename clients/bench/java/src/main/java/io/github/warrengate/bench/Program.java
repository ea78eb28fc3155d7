package io.github.warrengate.bench;

import com.google.gson.Gson;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;

/** What both sides have in common: commands from standard input, and times on standard output. */
final class Program {
  private Program() {}

  /** One line of standard input. */
  record Command(String action, String queue, int count, int size, int window, int prefetch) {}

  interface Side {
    void publish(Command command) throws Exception;

    void consume(Command command) throws Exception;
  }

  /** Executes one command after another, and answers each with its seconds. */
  static void serve(Side side) throws Exception {
    System.out.println("{\"ready\": true}");
    var input = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
    for (var line = input.readLine(); line != null; line = input.readLine()) {
      var command = new Gson().fromJson(line.replace("\"do\"", "\"action\""), Command.class);
      var began = System.nanoTime();
      if (command.action().equals("publish")) {
        side.publish(command);
      } else {
        side.consume(command);
      }
      System.out.println("{\"seconds\": " + (System.nanoTime() - began) / 1e9 + "}");
    }
  }
}

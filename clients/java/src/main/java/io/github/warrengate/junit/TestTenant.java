package io.github.warrengate.junit;

import io.github.warrengate.client.ClientOptions;
import io.github.warrengate.client.WarrengateClient;
import java.nio.file.Path;
import java.util.Map;

/**
 * A tenant, and a client of it that may do everything inside.
 *
 * @param name the tenant's id
 * @param endpoint the gateway's address
 * @param ca the certificate authority of the gateway, a PEM file
 * @param clientId the id of the client
 * @param clientSecret its secret
 */
public record TestTenant(String name, String endpoint, Path ca, String clientId, String clientSecret) {
  /**
   * The settings of the tenant's client.
   *
   * @return settings that may be changed
   */
  public ClientOptions options() {
    return new ClientOptions().endpoint(endpoint).caFile(ca).credentials(clientId, clientSecret);
  }

  /**
   * Connects the tenant's client. The caller closes it.
   *
   * @return the client
   */
  public WarrengateClient connect() {
    return WarrengateClient.connect(options());
  }

  /**
   * The variables that {@link WarrengateClient#fromEnv} reads, for programs under test.
   *
   * @return names and values
   */
  public Map<String, String> environment() {
    return Map.of("WARRENGATE_ENDPOINT", endpoint, "WARRENGATE_CA", ca.toString(), "WARRENGATE_CLIENT_ID", clientId,
        "WARRENGATE_CLIENT_SECRET", clientSecret);
  }

  /** The name of the tenant, never the secret. */
  @Override
  public String toString() {
    return "TestTenant[" + name + " at " + endpoint + "]";
  }
}

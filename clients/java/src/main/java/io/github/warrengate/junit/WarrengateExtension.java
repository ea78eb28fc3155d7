package io.github.warrengate.junit;

import io.github.warrengate.client.WarrengateClient;
import org.junit.jupiter.api.extension.ExtensionContext;
import org.junit.jupiter.api.extension.ExtensionContext.Namespace;
import org.junit.jupiter.api.extension.ParameterContext;
import org.junit.jupiter.api.extension.ParameterResolver;

/**
 * Gives each test a fresh tenant, which is deleted afterwards. A test that has a parameter of the type
 * {@link TestTenant} gets the tenant, and one with a {@link WarrengateClient} gets a client of it, which is closed
 * afterwards.
 *
 * <p>The tenants are on a development stack, {@code warrengate dev} from {@code PATH} or {@code WARRENGATE_BINARY},
 * which is started once for all tests, or on the gateway that {@code WARRENGATE_TEST_ENDPOINT},
 * {@code WARRENGATE_TEST_CA} and {@code WARRENGATE_TEST_ADMIN_SECRET} name.
 */
public final class WarrengateExtension implements ParameterResolver {
  private static final Namespace NAMESPACE = Namespace.create(WarrengateExtension.class);

  /** Made by JUnit. */
  public WarrengateExtension() {}

  /** A tenant or client in the store of a test; JUnit closes it, the later ones first. */
  private record Owned<T>(T value, Runnable end) implements AutoCloseable {
    @Override
    public void close() {
      end.run();
    }
  }

  @Override
  public boolean supportsParameter(ParameterContext parameter, ExtensionContext context) {
    var type = parameter.getParameter().getType();
    return type == TestTenant.class || type == WarrengateClient.class;
  }

  @Override
  public Object resolveParameter(ParameterContext parameter, ExtensionContext context) {
    return parameter.getParameter().getType() == TestTenant.class ? tenant(context) : client(context);
  }

  private static TestTenant tenant(ExtensionContext context) {
    var stack = context.getRoot().getStore(NAMESPACE).getOrComputeIfAbsent(Stack.class, type -> Stack.start(), Stack.class);
    var owned = (Owned<?>) context.getStore(NAMESPACE).getOrComputeIfAbsent("tenant", key -> {
      var tenant = stack.createTenant();
      return new Owned<>(tenant, () -> stack.deleteTenant(tenant));
    });
    return (TestTenant) owned.value();
  }

  private static WarrengateClient client(ExtensionContext context) {
    var tenant = tenant(context);
    var owned = (Owned<?>) context.getStore(NAMESPACE).getOrComputeIfAbsent("client", key -> {
      var client = tenant.connect();
      return new Owned<>(client, client::close);
    });
    return (WarrengateClient) owned.value();
  }
}

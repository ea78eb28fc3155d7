package orders;

import static org.junit.jupiter.api.Assertions.assertEquals;

import io.github.warrengate.client.Message;
import io.github.warrengate.client.WarrengateClient;
import io.github.warrengate.junit.TestTenant;
import io.github.warrengate.junit.WarrengateExtension;
import org.junit.jupiter.api.RepeatedTest;
import org.junit.jupiter.api.extension.ExtendWith;

@ExtendWith(WarrengateExtension.class)
class OrdersTest {
  /** Two tests: the tenant of the second one must be new. */
  @RepeatedTest(2)
  void aNewTenantHasNoMessages(WarrengateClient client, TestTenant tenant) {
    client.topology().declareQueue("orders");
    assertEquals(0, client.topology().queueStatus("orders").getMessagesReady());
    client.publisher().publishAndWait("orders", Message.text("order 1"));
    assertEquals(1, client.topology().queueStatus("orders").getMessagesReady());
    assertEquals(tenant.name(), client.whoAmI().getTenant());
  }
}

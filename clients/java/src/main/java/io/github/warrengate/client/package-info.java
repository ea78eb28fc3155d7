/**
 * A client of a Warrengate gateway: publishers and consumers that survive restarts, drains and lost connections.
 *
 * <p>Begin with {@link io.github.warrengate.client.WarrengateClient#fromEnv}.
 */
package io.github.warrengate.client;

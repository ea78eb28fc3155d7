/** A fresh tenant for each JUnit test, on a development stack. */
package io.github.warrengate.junit;

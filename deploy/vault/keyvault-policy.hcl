# SPDX-License-Identifier: Apache-2.0
# What the keyvault service may do in Vault: use the one Transit key and read about it.
# Nothing here creates, exports, rotates or deletes a key: no path has `create` or `delete`, so a
# mistyped key name is an error instead of a new key.

# A fresh data key for a key version, with its wrapped form.
path "transit/datakey/plaintext/ownkey" {
  capabilities = ["update"]
}

# Wraps small values of our own making: audit and sealing keys.
path "transit/encrypt/ownkey" {
  capabilities = ["update"]
}

# Unwraps, singly and in batches.
path "transit/decrypt/ownkey" {
  capabilities = ["update"]
}

# Rewraps under the newest version, singly and in batches.
path "transit/rewrap/ownkey" {
  capabilities = ["update"]
}

# Asserted at start: the key is derived and not exportable; its versions are shown by GetKekStatus.
path "transit/keys/ownkey" {
  capabilities = ["read"]
}

# Asserted at start: a call that names an unknown key is refused instead of making it.
path "transit/config/keys" {
  capabilities = ["read"]
}

-- Configurations have a member more: whether environments start from a template.

UPDATE functions
SET configuration = json_set(configuration, '$.template', 'Default'), configuration_format = 2
WHERE configuration_format = 1;

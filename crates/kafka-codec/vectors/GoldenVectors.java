// Writes golden vectors with Kafka's own message classes, for the test tests/golden.rs.
//
// Every class has, per version, a schema that names its fields. Each field the schema of a version names
// is set, by reflection, to a value from a seeded generator; Kafka's code then turns the object into
// bytes. A line of the output is
//
//     NAME VERSION HEX [FIELDS]
//
// where FIELDS, given for the newest version only, says what was put into which field, in the form of
// Rust's Debug output. Bytes and records are left out of it; their bytes are in HEX anyway.
//
// usage: java -cp kafka-clients.jar GoldenVectors.java schema.txt

import java.lang.reflect.Field;
import java.lang.reflect.Modifier;
import java.lang.reflect.ParameterizedType;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Collection;
import java.util.HexFormat;
import java.util.List;
import java.util.Random;

import org.apache.kafka.common.Uuid;
import org.apache.kafka.common.protocol.ApiMessage;
import org.apache.kafka.common.protocol.Message;
import org.apache.kafka.common.protocol.MessageUtil;
import org.apache.kafka.common.protocol.types.BoundField;
import org.apache.kafka.common.protocol.types.Schema;
import org.apache.kafka.common.protocol.types.TaggedFields;
import org.apache.kafka.common.protocol.types.Type;
import org.apache.kafka.common.record.MemoryRecords;

public class GoldenVectors {
    private final short version;
    private final Random random;

    private GoldenVectors(short version, long seed) {
        this.version = version;
        this.random = new Random(seed);
    }

    public static void main(String[] args) throws Exception {
        for (String line : Files.readAllLines(Path.of(args[0]))) {
            if (line.startsWith("message ")) {
                String[] words = line.split(" ");
                all(words[1], Short.parseShort(words[3]), Short.parseShort(words[4]));
            }
        }
        all("RequestHeader", (short) 1, (short) 2);
        all("ResponseHeader", (short) 0, (short) 1);
    }

    private static void all(String name, short min, short max) throws Exception {
        Class<?> type = Class.forName("org.apache.kafka.common.message." + name + "Data");
        for (short version = min; version <= max; version++) {
            Message message = (Message) type.getDeclaredConstructor().newInstance();
            GoldenVectors golden = new GoldenVectors(version, name.hashCode() * 31L + version);
            String fields = golden.fill(message);
            ByteBuffer bytes = MessageUtil.toByteBufferAccessor(message, version).buffer();
            byte[] raw = new byte[bytes.remaining()];
            bytes.get(raw);
            String hex = HexFormat.of().formatHex(raw);
            System.out.println(name + " " + version + " " + hex + (version == max ? " " + fields : ""));
        }
    }

    /** Sets every field the version has and says how, as Rust's Debug would. */
    private String fill(Object object) throws Exception {
        Schema schema = ((Schema[]) object.getClass().getField("SCHEMAS").get(null))[version];
        List<String> said = new ArrayList<>();
        for (BoundField bound : schema.fields()) {
            if (bound.def.type instanceof TaggedFields tagged) {
                for (var field : tagged.fields().values()) {
                    set(object, field.name, field.type, said);
                }
            } else {
                set(object, bound.def.name, bound.def.type, said);
            }
        }
        return "{ " + String.join(", ", said) + " }";
    }

    private void set(Object object, String name, Type wire, List<String> said) throws Exception {
        Field field = javaField(object.getClass(), name);
        StringBuilder text = new StringBuilder();
        Object value = value(field, wire, text);
        field.setAccessible(true);
        field.set(object, value);
        if (text.length() > 0) {
            said.add(name + ": " + text);
        }
    }

    private static Field javaField(Class<?> type, String name) throws Exception {
        String squeezed = name.replace("_", "");
        for (Field field : type.getDeclaredFields()) {
            if (!Modifier.isStatic(field.getModifiers()) && field.getName().equalsIgnoreCase(squeezed)) {
                return field;
            }
        }
        throw new NoSuchFieldException(type + "." + name);
    }

    @SuppressWarnings({"unchecked", "rawtypes"})
    private Object value(Field field, Type wire, StringBuilder text) throws Exception {
        Class<?> type = field.getType();
        if (wire.isNullable() && random.nextInt(6) == 0 && !ByteBuffer.class.isAssignableFrom(type)) {
            text.append("None");
            return null;
        }
        if (Collection.class.isAssignableFrom(type)) {
            Collection list = type == List.class ? new ArrayList() : (Collection) type.getDeclaredConstructor().newInstance();
            var generic = (ParameterizedType) (type == List.class ? field.getGenericType() : type.getGenericSuperclass());
            Class<?> element = (Class<?>) generic.getActualTypeArguments()[0];
            Type of = wire.arrayElementType().orElse(null);
            List<String> said = new ArrayList<>();
            for (int i = 1 + random.nextInt(2); i > 0; i--) {
                StringBuilder one = new StringBuilder();
                list.add(scalar(element, of, one));
                said.add(one.toString());
            }
            text.append("[").append(String.join(", ", said)).append("]");
            return list;
        }
        return scalar(type, wire, text);
    }

    private Object scalar(Class<?> type, Type wire, StringBuilder text) throws Exception {
        if (type == byte[].class) {
            return bytes();
        }
        if (type == ByteBuffer.class) {
            return ByteBuffer.wrap(bytes());
        }
        if (type.getSimpleName().endsWith("Records")) {
            return MemoryRecords.readableRecords(ByteBuffer.wrap(bytes()));
        }
        if (type == String.class) {
            String value = "s" + Integer.toString(random.nextInt(46656), 36);
            text.append('"').append(value).append('"');
            return value;
        }
        if (Message.class.isAssignableFrom(type)) {
            Object value = type.getDeclaredConstructor().newInstance();
            text.append(fill(value));
            return value;
        }
        Object value;
        if (type == Uuid.class) {
            value = new Uuid(random.nextLong(), random.nextLong());
        } else if (type == boolean.class) {
            value = random.nextBoolean();
        } else if (type == byte.class || type == Byte.class) {
            value = (byte) random.nextInt();
        } else if (type == short.class || type == Short.class) {
            value = (short) random.nextInt();
        } else if (wire == Type.UINT16) {
            value = random.nextInt(65536);
        } else if (type == int.class || type == Integer.class) {
            value = random.nextInt();
        } else if (type == long.class || type == Long.class) {
            value = random.nextLong();
        } else if (type == double.class) {
            value = random.nextInt(1000) / 8.0;
        } else {
            throw new IllegalArgumentException("type " + type);
        }
        text.append(value);
        return value;
    }

    private byte[] bytes() {
        byte[] value = new byte[random.nextInt(6)];
        random.nextBytes(value);
        return value;
    }
}
